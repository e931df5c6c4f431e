package image

import (
	"context"
	"fmt"
	"io"

	"hull/internal/hull"
	"hull/internal/image/packed"
)

// Import makes an image of one layer from a root file system's tar, packed or not.
func (s *Service) Import(ctx context.Context, r hull.ImportRequest, tar io.Reader) (string, error) {
	ctx = s.ns(ctx)
	named, err := parseTarget(r.Ref)
	if err != nil {
		return "", err
	}
	run, err := applyChanges(runConfig{}, r.Changes)
	if err != nil {
		return "", err
	}
	p, err := s.platform(r.Platform)
	if err != nil {
		return "", err
	}
	dec, _, err := packed.Decompress(tar)
	if err != nil {
		return "", fmt.Errorf("import: %w", err)
	}
	defer dec.Close()
	leave := s.gate.enter()
	defer leave()
	l, err := s.makeLayer(ctx, dec, "")
	if err != nil {
		return "", fmt.Errorf("import: %w", err)
	}
	comment := r.Message
	if comment == "" {
		comment = "Imported from -"
	}
	return s.finish(ctx, draft{base: &parsed{}, layer: &l, run: run, comment: comment, platform: &p}, named, "import")
}
