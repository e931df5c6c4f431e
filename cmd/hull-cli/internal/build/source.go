package build

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/command/image/build"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/ociindex"
	bkbuild "github.com/moby/buildkit/cmd/buildctl/build"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/tonistiigi/fsutil"
)

// sources are what a build reads on this side: directories, each by the name that
// the frontend knows it by, and what is uploaded.
type sources struct {
	opt  *client.SolveOpt
	gone []string // directories to remove at the end
}

// find completes opt with the context, the Dockerfile and the named contexts.
func find(opt *client.SolveOpt, at, file string, named []string, in io.Reader) (_ *sources, err error) {
	s := &sources{opt: opt}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.context(at, file, in); err != nil {
		return nil, err
	}
	for _, text := range named {
		name, path, ok := strings.Cut(text, "=")
		if !ok || name == "" || path == "" {
			return nil, fmt.Errorf("--build-context %s is not NAME=PATH", text)
		}
		if err := s.named(name, path); err != nil {
			return nil, fmt.Errorf("build context %s: %w", name, err)
		}
	}
	return s, nil
}

func (s *sources) close() error {
	var errs []error
	for _, d := range s.gone {
		errs = append(errs, os.RemoveAll(d))
	}
	return errors.Join(errs...)
}

// context is where COPY copies from, and where the Dockerfile is unless file says
// something else.
func (s *sources) context(at, file string, in io.Reader) error {
	kind, err := build.DetectContextType(at)
	if err != nil {
		return err
	}
	attrs := s.opt.FrontendAttrs
	attrs["filename"] = "Dockerfile"
	switch {
	case file == "-" && kind == build.ContextTypeStdin:
		return errors.New("stdin is either the context or the Dockerfile, not both")
	case file == "-":
		if err := s.dockerfile(in); err != nil {
			return err
		}
	case kind == build.ContextTypeStdin:
		return s.stdin(file, in)
	}
	if kind != build.ContextTypeLocal {
		attrs["context"] = at
		if file != "" && file != "-" {
			if !filepath.IsAbs(file) {
				attrs["filename"] = file // in the context
				return nil
			}
			attrs["dockerfilekey"] = "dockerfile"
			return s.place(file)
		}
		return nil
	}
	s.opt.SharedKey = sharedKey(at)
	if err := s.mount("context", at); err != nil {
		return err
	}
	switch file {
	case "-":
		return nil
	case "":
		file = filepath.Join(at, "Dockerfile")
		if _, err := os.Lstat(file); errors.Is(err, os.ErrNotExist) {
			if lower := filepath.Join(at, "dockerfile"); exists(lower) {
				file = lower
			}
		}
	}
	return s.place(file)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// place says where the Dockerfile is on this side.
func (s *sources) place(file string) error {
	s.opt.FrontendAttrs["filename"] = filepath.Base(file)
	return s.mount("dockerfile", filepath.Dir(file))
}

// dockerfile is one that came through a stream.
func (s *sources) dockerfile(in io.Reader) error {
	dir, err := os.MkdirTemp("", "hull-build")
	if err != nil {
		return err
	}
	s.gone = append(s.gone, dir)
	text, err := io.ReadAll(io.LimitReader(in, maxDockerfile))
	if err != nil {
		return fmt.Errorf("read the Dockerfile: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), text, 0o600); err != nil {
		return err
	}
	s.opt.FrontendAttrs["dockerfilekey"] = "dockerfile"
	return s.mount("dockerfile", dir)
}

// maxDockerfile bounds a Dockerfile that comes through a stream, bytes.
const maxDockerfile = 16 << 20

// stdin is a Dockerfile, or a tar with all.
func (s *sources) stdin(file string, in io.Reader) error {
	archive, name, err := build.GetContextFromReader(io.NopCloser(in), file)
	if err != nil {
		return fmt.Errorf("read the context: %w", err)
	}
	up := uploadprovider.New()
	s.opt.FrontendAttrs["context"], s.opt.FrontendAttrs["filename"] = up.Add(archive), name
	s.opt.Session = append(s.opt.Session, up)
	return nil
}

// named is a further context: a directory, an OCI layout, or what the frontend
// itself can find.
func (s *sources) named(name, path string) error {
	attrs := s.opt.FrontendAttrs
	if layout, ok := strings.CutPrefix(path, "oci-layout://"); ok {
		return s.layout(name, layout)
	}
	if strings.Contains(path, "://") || strings.HasPrefix(path, "target:") || strings.HasPrefix(path, "git@") {
		attrs["context:"+name] = path
		return nil
	}
	local := name
	if name == "context" || name == "dockerfile" {
		local = "_" + name // those are taken
	}
	if err := s.mount(local, path); err != nil {
		return err
	}
	attrs["context:"+name] = "local:" + local
	attrs["sharedkey:localdir:"+name] = sharedKey(path)
	return nil
}

// layout is an image in a directory here: PATH[:TAG][@DIGEST].
func (s *sources) layout(name, path string) error {
	path, dgst, _ := strings.Cut(path, "@")
	tag := ""
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') {
		path, tag = path[:i], path[i+1:]
	}
	if dgst == "" {
		index := ociindex.NewStoreIndex(path)
		d, err := index.Get(tag)
		if err == nil && d == nil {
			d, err = index.GetSingle()
		}
		if err != nil {
			return err
		}
		if d == nil {
			return fmt.Errorf("%s has several images: name one with :TAG or @DIGEST", path)
		}
		dgst = d.Digest.String()
	}
	id := identity.NewID()
	stores, err := bkbuild.ParseOCILayout([]string{id + "=" + path})
	if err != nil {
		return err
	}
	if s.opt.OCIStores != nil {
		maps.Copy(stores, s.opt.OCIStores)
	}
	s.opt.OCIStores = stores
	s.opt.FrontendAttrs["context:"+name] = "oci-layout://" + id + "@" + dgst
	return nil
}

func (s *sources) mount(name, dir string) error {
	files, err := fsutil.NewFS(dir)
	if err != nil {
		return err
	}
	if s.opt.LocalMounts == nil {
		s.opt.LocalMounts = map[string]fsutil.FS{}
	}
	s.opt.LocalMounts[name] = files
	return nil
}

// sharedKey is by what the engine recognises a directory that it has copies of.
func sharedKey(dir string) string {
	if p, err := filepath.Abs(dir); err == nil {
		dir = p
	}
	return dir
}
