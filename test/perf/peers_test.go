package perf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hull/test/harness"
	"hull/test/images"
)

// peer is another engine that runs the same command lines.
type peer struct {
	cli
	*harness.Engine        // how it is reached; nil for one that ran already
	at              string // where its API answers
	docker          bool   // it has Docker's API
}

// findPeers starts the engines of this machine. What is not here is in the report,
// with the reason.
func findPeers(t *testing.T, r *report) []*peer {
	t.Helper()
	var peers []*peer
	add := func(p *peer, err error, what string) {
		if err == nil {
			err = p.image(t, "busybox")
		}
		if err != nil {
			r.peers = append(r.peers, fmt.Sprintf("%s: not here: %v", what, err))
		} else {
			peers, r.peers = append(peers, p), append(r.peers, p.name)
		}
		fmt.Fprintln(t.Output(), "peer:", r.peers[len(r.peers)-1])
	}
	if host := os.Getenv("HULL_BENCH_PEER"); host != "" {
		add(&peer{cli: cli{name: "docker on " + host, cmd: dockerAt(host)}, at: host, docker: true}, nil, host)
	}
	own := harness.PeerBin(t)
	if _, err := os.Stat(filepath.Join(own, "dockerd")); err != nil {
		r.peers = append(r.peers, "the newest Docker Engine: not here: run make bench-peers")
	} else {
		p, err := harness.StartDocker(t, own+":"+os.Getenv("PATH"))
		add(engineOf(p, true), err, "the newest Docker Engine")
	}
	p, err := harness.StartDocker(t, os.Getenv("PATH"))
	add(engineOf(p, true), err, "the distribution's Docker Engine")
	p, err = harness.StartPodman(t)
	add(engineOf(p, false), err, "Podman")
	r.peers = append(r.peers, "nerdctl: not measured: it is the same containerd and runc with another client, and the Go module proxy does not have its module")
	return peers
}

func engineOf(p *harness.Peer, docker bool) *peer {
	if p == nil {
		return nil
	}
	return &peer{cli: cli{name: p.Name, cmd: p.Client.Cmd}, Engine: p.Engine, at: p.Host, docker: docker}
}

// dockerAt is the docker client against an engine that is not ours to start.
func dockerAt(host string) func(args ...string) *exec.Cmd {
	return func(args ...string) *exec.Cmd {
		cmd := exec.Command("docker", args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
		return cmd
	}
}

// image loads a test image, if it is not there.
func (p *peer) image(t *testing.T, name string) error {
	t.Helper()
	if _, err := p.try("image", "inspect", images.Ref(name)); err == nil {
		return nil
	}
	_, err := p.try("load", "-q", "-i", images.Path(t, name))
	return err
}

// each is one contender for each command line: of ours first, then of all peers.
func (b *bench) each(one func(*cli) contender, ours ...*cli) []contender {
	var all []contender
	for _, c := range ours {
		all = append(all, one(c))
	}
	for _, p := range b.peers {
		all = append(all, one(&p.cli))
	}
	return all
}

// dockers are the peers with Docker's API.
func (b *bench) dockers() []*peer {
	var out []*peer
	for _, p := range b.peers {
		if p.docker {
			out = append(out, p)
		}
	}
	return out
}

// removeAll removes containers by name, and says nothing of those that are gone.
func removeAll(c *cli, names ...string) {
	for len(names) > 0 {
		n := min(len(names), 50)
		_, _ = c.try(append([]string{"rm", "-f"}, names[:n]...)...)
		names = names[n:]
	}
}

func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(prefix, i)
	}
	return out
}
