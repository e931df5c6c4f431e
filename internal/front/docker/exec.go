package docker

import (
	"context"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"hull/api"
	"hull/internal/hull"
)

// execAPI are the routes of processes in running containers.
type execAPI struct {
	engine  Containers
	maxBody int64
}

func (a *execAPI) find(ctx context.Context, id string) (hull.Exec, error) {
	e, err := a.engine.Exec(ctx, id)
	if errdefs.IsNotFound(err) {
		return e, notFound("No such exec instance: %s", id)
	}
	return e, err //nolint:wrapcheck // the engine names the object
}

func (a *execAPI) create(w http.ResponseWriter, r *http.Request) error {
	var body container.ExecCreateRequest
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return err
	}
	if len(body.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	if _, err := detachKeys(body.DetachKeys); err != nil {
		return err
	}
	id, err := a.engine.ExecCreate(r.Context(), ref(r), toExec(body))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	if r.Header.Get(api.StartHeader) == "1" {
		return a.startNow(w, r, id)
	}
	writeJSON(w, http.StatusCreated, container.ExecCreateResponse{ID: id})
	return nil
}

// startNow starts what was just made: api.StartHeader.
func (a *execAPI) startNow(w http.ResponseWriter, r *http.Request, id string) error {
	e, err := a.find(r.Context(), id)
	if err != nil {
		return err
	}
	rows, cols, err := consoleSize(container.ExecStartRequest{Tty: e.Spec.TTY}, e)
	if err != nil {
		return err
	}
	w.Header().Set(api.ExecHeader, id)
	return a.startAttached(w, r, e, !e.Spec.TTY, rows, cols)
}

func toExec(b container.ExecCreateRequest) hull.ExecSpec {
	out := hull.ExecSpec{
		Args: b.Cmd, Env: b.Env, WorkDir: b.WorkingDir, User: b.User, Privileged: b.Privileged, TTY: b.Tty,
		Stdin: b.AttachStdin, Stdout: b.AttachStdout, Stderr: b.AttachStderr, DetachKeys: b.DetachKeys,
	}
	if b.ConsoleSize != nil {
		out.ConsoleSize = *b.ConsoleSize
	}
	return out
}

func (a *execAPI) start(w http.ResponseWriter, r *http.Request) error {
	var body container.ExecStartRequest
	if err := readJSON(r, a.maxBody, true, &body); err != nil {
		return err
	}
	e, err := a.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if e.Started || e.Running {
		return conflict("exec %s has already been started", e.ID)
	}
	rows, cols, err := consoleSize(body, e)
	if err != nil {
		return err
	}
	if body.Detach {
		if err := a.engine.ExecStart(r.Context(), e.ID, nil, rows, cols); err != nil {
			return execError(err)
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
	return a.startAttached(w, r, e, !body.Tty, rows, cols)
}

// startAttached answers before the process runs, so an error after that is
// output, as with Docker. Whether output is framed is what start says, whatever
// create said of a terminal.
func (a *execAPI) startAttached(w http.ResponseWriter, r *http.Request, e hull.Exec, mux bool, rows, cols uint16) error {
	keys, err := detachKeys(e.Spec.DetachKeys)
	if err != nil {
		return err
	}
	s, err := hijack(w, r, mux)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.answer(); err != nil {
		return err
	}
	f, err := s.file()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = a.engine.ExecStart(r.Context(), e.ID, &hull.Attach{
		Conn: f, Stdin: e.Spec.Stdin, Stdout: e.Spec.Stdout, Stderr: e.Spec.Stderr,
		Mux: mux, Prelude: s.prelude, DetachKeys: keys,
	}, rows, cols)
	if err != nil {
		err = execError(err)
		_, _ = frames{f, mux}.write("stdout", []byte(messageOf(err)+"\r\n")) // the client may be gone
	}
	return err
}

// consoleSize is what start asks for, or create did.
func consoleSize(b container.ExecStartRequest, e hull.Exec) (rows, cols uint16, err error) {
	size := e.Spec.ConsoleSize
	if b.ConsoleSize != nil {
		if !b.Tty {
			return 0, 0, invalid("console size is only supported when TTY is enabled")
		}
		size = *b.ConsoleSize
	}
	if size[0] > 0xffff || size[1] > 0xffff {
		return 0, 0, invalid("console size %dx%d is out of range", size[0], size[1])
	}
	return uint16(size[0]), uint16(size[1]), nil
}

func (a *execAPI) resize(w http.ResponseWriter, r *http.Request) error {
	rows, cols, err := sizeQuery(r)
	if err != nil {
		return err
	}
	e, err := a.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := a.engine.ExecResize(r.Context(), e.ID, rows, cols); err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *execAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	e, err := a.find(r.Context(), r.PathValue("id"))
	if err == nil && r.URL.RawQuery == api.UntilExit {
		e, err = a.engine.ExecWait(r.Context(), e.ID)
	}
	if err != nil {
		return err
	}
	return reply(w, toExecInspect(e))
}

func toExecInspect(e hull.Exec) container.ExecInspectResponse {
	keys, _ := detachKeys(e.Spec.DetachKeys) // checked at create
	out := container.ExecInspectResponse{
		ID: e.ID, Running: e.Running, ExitCode: e.ExitCode, ContainerID: e.ContainerID, Pid: e.Pid,
		OpenStdin: e.Spec.Stdin, OpenStdout: e.Spec.Stdout, OpenStderr: e.Spec.Stderr,
		CanRemove: e.CanRemove, DetachKeys: keys,
		ProcessConfig: &container.ExecProcessConfig{Tty: e.Spec.TTY, User: e.Spec.User, Privileged: &e.Spec.Privileged},
	}
	if len(e.Spec.Args) > 0 {
		out.ProcessConfig.Entrypoint, out.ProcessConfig.Arguments = e.Spec.Args[0], orEmpty(e.Spec.Args[1:])
	}
	return out
}
