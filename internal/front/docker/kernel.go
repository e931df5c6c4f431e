package docker

import (
	"context"
	"io"
	"net/http"

	"hull/api"
)

// Kernels keeps the guest kernel of machines.
type Kernels interface {
	Install(ctx context.Context, tar io.Reader) (name string, err error)
	Remove() error // errdefs.ErrNotFound: there is none
}

// kernelAPI is the route /hull/v1/vm/kernel.
type kernelAPI struct{ kernels Kernels }

func (a *kernelAPI) install(w http.ResponseWriter, r *http.Request) error {
	tar, err := decompress(r.Body)
	if err != nil {
		return err
	}
	defer func() { _ = tar.Close() }()
	name, err := a.kernels.Install(r.Context(), tar)
	if err != nil {
		return err //nolint:wrapcheck // it names the kernel
	}
	return reply(w, api.Kernel{Name: name})
}

func (a *kernelAPI) remove(w http.ResponseWriter, _ *http.Request) error {
	if err := a.kernels.Remove(); err != nil {
		return err //nolint:wrapcheck // it names the kernel
	}
	return noContent(w)
}
