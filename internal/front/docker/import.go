package docker

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"hull/internal/hull"
)

// importTar is POST /images/create with fromSrc: "-" for the body, or where the
// engine gets the tar from.
func (a *imageAPI) importTar(w http.ResponseWriter, r *http.Request, src string) error {
	name := r.FormValue("repo")
	if tag := r.FormValue("tag"); tag != "" && name != "" {
		name += ":" + tag
	}
	body := r.Body
	p := newProgressStream(w, r)
	message := r.FormValue("message")
	if src != "-" {
		var err error
		if body, err = fetch(r.Context(), src); err != nil {
			return err
		}
		defer func() { _ = body.Close() }()
		p.step(hull.Progress{Status: "Downloading from " + src})
		message = firstOf(message, "Imported from "+src)
	}
	id, err := a.images.Import(r.Context(), hull.ImportRequest{
		Ref: name, Message: message, Changes: r.Form["changes"], Platform: r.FormValue("platform"),
	}, body)
	if err == nil {
		p.step(hull.Progress{Status: id})
	}
	return p.end(err)
}

// fetch opens what is at a URL; one without a scheme is of http, as with Docker.
func fetch(ctx context.Context, src string) (io.ReadCloser, error) {
	if !strings.Contains(src, "://") {
		src = "http://" + src
	}
	u, err := url.Parse(src)
	switch {
	case err != nil:
		return nil, invalid("%v", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(u.Host, "%/"):
		return nil, invalid("invalid source %q: it is a URL of http or https, or - for the body", src)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, invalid("%v", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("get what to import: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	_ = resp.Body.Close() // only its status is of use
	text := fmt.Sprintf("failed to GET %s with status %s", u.Redacted(), resp.Status)
	if resp.StatusCode == http.StatusNotFound {
		return nil, notFound("%s", text)
	}
	return nil, &statusError{http.StatusInternalServerError, text}
}
