package images

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"hull/test/images/internal/layer"
)

// build is one run of a recipe.
type build struct {
	cache  string   // $HULL_CACHE
	work   string   // scratch, deleted afterwards; the layers go to work/layers/*.tar
	below  []string // layer tars of the base, lowest first
	recipe recipe
}

// script writes the recipe's files to work and runs the first of them in a mount
// namespace of its own, so that nothing it mounts outlives it.
func (b build) script(ctx context.Context, env ...string) error {
	for _, f := range b.recipe.files {
		content, err := recipeFiles.ReadFile("recipes/" + f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.work, f), content, 0o755); err != nil { // #nosec: a script
			return err
		}
	}
	return b.run(ctx, filepath.Join(b.work, b.recipe.files[0]), env...)
}

func (b build) run(ctx context.Context, script string, env ...string) error {
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "/bin/bash", "-eu", script)
	cmd.Dir = b.work
	cmd.Env = append(os.Environ(), append(env, "WORK="+b.work, "CACHE="+b.cache, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(script), err, tail(out.Bytes(), 4000))
	}
	return nil
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// buildTree runs a script that fills $WORK/root.
func buildTree(ctx context.Context, b build) error {
	rootDir := filepath.Join(b.work, "root")
	if err := os.Mkdir(rootDir, 0o755); err != nil {
		return err
	}
	if err := b.script(ctx, "ROOT="+rootDir); err != nil {
		return err
	}
	return layer.FromTree(rootDir, filepath.Join(b.work, "layers", "0.tar"))
}

// buildInChroot runs a script inside the base image and keeps what it changed.
func buildInChroot(ctx context.Context, b build) error {
	lower, upper := filepath.Join(b.work, "lower"), filepath.Join(b.work, "upper")
	for _, d := range []string{lower, upper, filepath.Join(b.work, "ovl"), filepath.Join(b.work, "merged")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	for _, tar := range b.below {
		if err := layer.Apply(ctx, tar, lower); err != nil {
			return err
		}
	}
	enter, err := recipeFiles.ReadFile("recipes/chroot.sh")
	if err != nil {
		return err
	}
	outer := filepath.Join(b.work, "chroot.sh")
	if err := os.WriteFile(outer, enter, 0o755); err != nil { // #nosec: a script
		return err
	}
	if err := b.script(ctx, "IN_CHROOT="+outer); err != nil {
		return err
	}
	return layer.FromTree(upper, filepath.Join(b.work, "layers", "0.tar"))
}

// Ten layers of 50 MiB, half of it compressible, always the same bytes.
const (
	syntheticLayers = 10
	syntheticFiles  = 50 // per layer, of 1 MiB
)

func buildSynthetic(_ context.Context, b build) error {
	for l := range syntheticLayers {
		dir := filepath.Join(b.work, fmt.Sprint("tree", l))
		if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
			return err
		}
		for f := range syntheticFiles {
			name := filepath.Join(dir, "data", fmt.Sprintf("%02d-%02d", l, f))
			if err := os.WriteFile(name, noise(uint64(l), uint64(f)), 0o644); err != nil { // #nosec: data
				return err
			}
			if err := os.Chtimes(name, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
				return err
			}
		}
		if err := layer.FromTree(dir, filepath.Join(b.work, "layers", fmt.Sprint(l)+".tar")); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// noise is 1 MiB that compresses to about half, as programs do: random words
// from a small vocabulary with random bytes between them.
func noise(seed, stream uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, stream)) // #nosec: the same bytes every time
	out := make([]byte, 0, 1<<20)
	for len(out) < 1<<20 {
		if rnd.IntN(2) == 0 {
			out = fmt.Appendf(out, "symbol_%04d_section ", rnd.IntN(500))
			continue
		}
		for range 12 {
			out = append(out, byte(rnd.Uint32()))
		}
	}
	return out[:1<<20]
}
