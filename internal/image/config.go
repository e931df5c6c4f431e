package image

import (
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

// imageConfig is an image's configuration document: the OCI one, with what
// Docker adds to it.
type imageConfig struct {
	ocispec.Platform
	Created *time.Time        `json:"created,omitempty"`
	Author  string            `json:"author,omitempty"`
	Comment string            `json:"comment,omitempty"`
	Config  runConfig         `json:"config"`
	RootFS  rootFS            `json:"rootfs"`
	History []ocispec.History `json:"history,omitempty"`

	DockerVersion string `json:"docker_version,omitempty"`
}

type rootFS struct {
	Type    string          `json:"type"`
	DiffIDs []digest.Digest `json:"diff_ids"`
}

// runConfig is the part that says how to run it.
type runConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   stringList          `json:"Entrypoint,omitempty"`
	Cmd          stringList          `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	ArgsEscaped  bool                `json:"ArgsEscaped,omitempty"`
	Healthcheck  *health             `json:"Healthcheck,omitempty"`
	OnBuild      []string            `json:"OnBuild,omitempty"`
	Shell        stringList          `json:"Shell,omitempty"`
}

type health struct {
	Test          []string      `json:"Test,omitempty"`
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`
	StartInterval time.Duration `json:"StartInterval,omitempty"`
	Retries       int           `json:"Retries,omitempty"`
}

// stringList is a list, or the single string that very old images have.
type stringList []string

func (l *stringList) UnmarshalJSON(b []byte) error {
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		var one string
		if json.Unmarshal(b, &one) != nil {
			return err
		}
		list = []string{one}
	}
	*l = list
	return nil
}

// domain turns it into the engine's type.
func (c runConfig) domain() hull.ImageConfig {
	return hull.ImageConfig{
		User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		Volumes: c.Volumes, WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal,
		ArgsEscaped: c.ArgsEscaped, Healthcheck: (*hull.HealthSpec)(c.Healthcheck), OnBuild: c.OnBuild, Shell: c.Shell,
	}
}

func fromDomain(c hull.ImageConfig) runConfig {
	return runConfig{
		User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		Volumes: c.Volumes, WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal,
		ArgsEscaped: c.ArgsEscaped, Healthcheck: (*health)(c.Healthcheck), OnBuild: c.OnBuild, Shell: c.Shell,
	}
}
