package main

import (
	"context"
	"io"
	"os"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/image"
)

// pendingImages answers for what the image service does not do yet.
type pendingImages struct{ *image.Service }

func (pendingImages) Open(context.Context, string) (*os.File, error) {
	return nil, errdefs.ErrNotImplemented
}
func (pendingImages) Changes(context.Context, string) ([]hull.Change, error) {
	return nil, errdefs.ErrNotImplemented
}
func (pendingImages) Export(context.Context, *os.File, io.Writer) error {
	return errdefs.ErrNotImplemented
}
func (pendingImages) Commit(context.Context, string, hull.CommitRequest, hull.ImageConfig) (string, error) {
	return "", errdefs.ErrNotImplemented
}
func (pendingImages) Size(context.Context, string) (int64, int64, error) {
	return 0, 0, errdefs.ErrNotImplemented
}
func (pendingImages) Push(context.Context, hull.PushRequest) error { return errdefs.ErrNotImplemented }
func (pendingImages) Tag(context.Context, string, string) error   { return errdefs.ErrNotImplemented }
func (pendingImages) History(context.Context, string, string) ([]hull.HistoryItem, error) {
	return nil, errdefs.ErrNotImplemented
}
func (pendingImages) Remove(context.Context, string, bool, bool, func(string) []hull.Container) ([]hull.ImageRemoved, error) {
	return nil, errdefs.ErrNotImplemented
}
func (pendingImages) Prune(context.Context, func(hull.Image) bool) ([]hull.ImageRemoved, int64, error) {
	return nil, 0, errdefs.ErrNotImplemented
}
func (pendingImages) Save(context.Context, []string, []string, io.Writer) error {
	return errdefs.ErrNotImplemented
}
func (pendingImages) Import(context.Context, hull.ImportRequest, io.Reader) (string, error) {
	return "", errdefs.ErrNotImplemented
}
func (pendingImages) Distribution(context.Context, string, hull.Auth) (hull.Distribution, error) {
	return hull.Distribution{}, errdefs.ErrNotImplemented
}
func (pendingImages) Login(context.Context, hull.Auth) (string, string, error) {
	return "", "", errdefs.ErrNotImplemented
}
func (pendingImages) Usage(context.Context) (hull.ImageUsage, error) {
	return hull.ImageUsage{}, errdefs.ErrNotImplemented
}
