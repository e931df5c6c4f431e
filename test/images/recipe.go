package images

import (
	"context"
	"embed"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

//go:embed recipes
var recipeFiles embed.FS

// recipe says how one image is made. The first file is the script that makes
// its layer; the others are put beside it.
type recipe struct {
	name   string
	base   string // image below, "" = scratch
	files  []string
	config imagespec.ImageConfig
	build  func(context.Context, build) error
}

const debianPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

type set = map[string]struct{}

// recipes is all of them. Configurations are those of the images of the same
// name that people pull.
func recipes() []recipe {
	return []recipe{
		{
			name: "busybox", files: []string{"busybox.sh", "busybox.passwd", "busybox.group"}, build: buildTree,
			config: imagespec.ImageConfig{Cmd: []string{"sh"}, Env: []string{debianPath}},
		},
		{
			name: "debian", files: []string{"debian.sh"}, build: buildTree,
			config: imagespec.ImageConfig{Cmd: []string{"bash"}, Env: []string{debianPath}},
		},
		{
			name: "redis", base: "debian", files: []string{"redis.sh", "redis-entrypoint.sh"}, build: buildInChroot,
			config: imagespec.ImageConfig{
				Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"redis-server"},
				Env: []string{debianPath}, WorkingDir: "/data",
				ExposedPorts: set{"6379/tcp": {}}, Volumes: set{"/data": {}},
			},
		},
		{
			name: "postgres", base: "debian", files: []string{"postgres.sh", "postgres-entrypoint.sh"}, build: buildInChroot,
			config: imagespec.ImageConfig{
				Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"postgres"},
				Env: []string{
					"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin",
					"LANG=C.UTF-8", "PG_MAJOR=15", "PGDATA=/var/lib/postgresql/data",
				},
				ExposedPorts: set{"5432/tcp": {}}, Volumes: set{"/var/lib/postgresql/data": {}}, StopSignal: "SIGINT",
			},
		},
		{
			name: "nginx", base: "debian", files: []string{"nginx.sh", "nginx.conf"}, build: buildInChroot,
			config: imagespec.ImageConfig{
				Cmd: []string{"nginx", "-g", "daemon off;"}, Env: []string{debianPath},
				ExposedPorts: set{"80/tcp": {}}, StopSignal: "SIGQUIT",
			},
		},
		{
			name: "python", base: "debian", files: []string{"python.sh"}, build: buildInChroot,
			config: imagespec.ImageConfig{Cmd: []string{"python3"}, Env: []string{debianPath, "LANG=C.UTF-8"}},
		},
		{
			name: "jupyter", base: "python", files: []string{"jupyter.sh"}, build: buildInChroot,
			config: imagespec.ImageConfig{
				User: "jovyan", WorkingDir: "/home/jovyan", Env: []string{debianPath, "LANG=C.UTF-8", "HOME=/home/jovyan"},
				Cmd:          []string{"jupyter", "notebook", "--ip=0.0.0.0", "--port=8888", "--no-browser"},
				ExposedPorts: set{"8888/tcp": {}},
			},
		},
		{
			name: "golang", base: "debian", files: []string{"golang.sh"}, build: buildInChroot,
			config: imagespec.ImageConfig{Cmd: []string{"bash"}, Env: []string{debianPath, "CGO_ENABLED=0", "GOPROXY=off", "GOFLAGS=-mod=mod"}, WorkingDir: "/src"},
		},
		{
			name: "node", base: "debian", files: []string{"node.sh"}, build: buildInChroot,
			config: imagespec.ImageConfig{Cmd: []string{"node"}, Env: []string{debianPath}},
		},
		{
			name: "tenlayers", build: buildSynthetic,
			config: imagespec.ImageConfig{Cmd: []string{"/nothing"}, Env: []string{debianPath}},
		},
	}
}
