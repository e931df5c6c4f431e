package docker

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"hull/internal/hull"
)

// commitBody is a container configuration, or nothing.
type commitBody struct {
	container.Config
	set bool
}

func (b *commitBody) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	b.set = true
	return json.Unmarshal(raw, &b.Config) //nolint:wrapcheck // the decoder's words
}

// toCommit reads the query and the configuration to override with.
func toCommit(r *http.Request, b commitBody) (hull.CommitRequest, error) {
	out := hull.CommitRequest{
		Ref: r.FormValue("repo"), Author: r.FormValue("author"), Comment: r.FormValue("comment"),
		Pause: boolQueryDefault(r, "pause", true), Changes: r.Form["changes"],
	}
	if tag := r.FormValue("tag"); tag != "" && out.Ref != "" {
		out.Ref += ":" + tag
	}
	if b.set {
		raw, err := json.Marshal(b.Config)
		if err != nil {
			return out, fmt.Errorf("keep commit configuration: %w", err)
		}
		out.Config = raw
	}
	return out, nil
}
