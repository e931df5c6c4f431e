package api

import (
	"net/url"
	"time"
)

// SecretsPath is the route of secrets: GET lists them ([]Secret), POST makes one from a
// NewSecret (201: Secret; 409: the name is taken). Their values are never answered.
const SecretsPath = "/hull/v1/secrets"

// SecretPath is the route of one secret: GET (404), DELETE (409: in use).
func SecretPath(name string) string { return SecretsPath + "/" + url.PathEscape(name) }

// Secret is what is told of a secret.
type Secret struct {
	Name    string
	Created time.Time
	Labels  map[string]string `json:",omitempty"`
}

// NewSecret is a secret to be kept.
type NewSecret struct {
	Name   string
	Labels map[string]string `json:",omitempty"`
	Value  []byte            // in base64, 1 byte to 256 KiB
}

// SecretMount is the type of a mount (HostConfig.Mounts) that shows a secret as a
// file. Its source is the secret's name, and after it, with commas, what is not as
// usual: "uid=70", "gid=70", "mode=0400" (0444). Its target is /run/secrets/NAME if it
// has none; a relative one is below /run/secrets.
const SecretMount = "secret"
