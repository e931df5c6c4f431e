package build

import (
	"os"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flags are the values of docker build's flags.
type flags struct {
	input
	result
	limits
}

// input is what is built, and how.
type input struct {
	file, target, platform, network            string
	args, hosts, contexts, secrets, ssh, allow []string
	cacheFrom, cacheTo, noCacheFilter          []string
	noCache, pull, quiet, check                bool
	call, progress                             string
}

// result is what becomes of it.
type result struct {
	tags, labels, annotated, outputs, attests []string
	sbom, provenance, idFile, metadataFile    string
	push, load, squash                        bool
}

// limits are those of a RUN instruction.
type limits struct {
	cgroup, isolation              string
	ulimits                        *opts.UlimitOpt
	shm, memory                    opts.MemBytes
	swap                           opts.MemSwapBytes
	cpuShares, cpuPeriod, cpuQuota int64
	cpus, mems                     string
}

// add defines docker build's flags.
func (f *flags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	list := func(p *[]string, name, short, usage string) { s.StringArrayVarP(p, name, short, nil, usage) }
	list(&f.hosts, "add-host", "", `Add a custom host-to-IP mapping ("host:ip")`)
	list(&f.allow, "allow", "", `Allow extra privileged entitlement ("network.host", "security.insecure")`)
	list(&f.annotated, "annotation", "", "Add annotation to the image")
	list(&f.attests, "attest", "", `Attestation parameters ("type=sbom,generator=image")`)
	list(&f.args, "build-arg", "", "Set build-time variables")
	list(&f.contexts, "build-context", "", `Additional build contexts ("name=path")`)
	list(&f.cacheFrom, "cache-from", "", `External cache sources ("user/app:cache", "type=local,src=path/to/dir")`)
	list(&f.cacheTo, "cache-to", "", `Cache export destinations ("user/app:cache", "type=local,dest=path/to/dir")`)
	s.StringVar(&f.call, "call", "build", `Set method for evaluating build ("check", "outline", "targets")`)
	s.StringVar(&f.cgroup, "cgroup-parent", "", `Set the parent cgroup for the "RUN" instructions during build`)
	s.BoolVar(&f.check, "check", false, `Shorthand for "--call=check"`)
	s.StringVarP(&f.file, "file", "f", "", `Name of the Dockerfile (Default is "PATH/Dockerfile")`)
	s.StringVar(&f.idFile, "iidfile", "", "Write the image ID to the file")
	s.StringVar(&f.isolation, "isolation", "", `Boundary of the "RUN" instructions ("container", "sandbox", "vm")`)
	list(&f.labels, "label", "", "Set metadata for an image")
	s.BoolVar(&f.load, "load", false, `Shorthand for "--output=type=docker"`)
	s.StringVar(&f.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	s.StringVar(&f.network, "network", "default", `Set the networking mode for the "RUN" instructions during build`)
	s.BoolVar(&f.noCache, "no-cache", false, "Do not use cache when building the image")
	list(&f.noCacheFilter, "no-cache-filter", "", "Do not cache specified stages")
	list(&f.outputs, "output", "o", `Output destination ("type=local,dest=path")`)
	s.StringVar(&f.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Set target platform for build")
	s.StringVar(&f.progress, "progress", progressFromEnv(), `Set type of progress output ("auto", "plain", "quiet", "rawjson", "tty")`)
	s.StringVar(&f.provenance, "provenance", "", `Shorthand for "--attest=type=provenance"`)
	s.BoolVar(&f.pull, "pull", false, "Always attempt to pull all referenced images")
	s.BoolVar(&f.push, "push", false, `Shorthand for "--output=type=registry"`)
	s.BoolVarP(&f.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	s.StringVar(&f.sbom, "sbom", "", `Shorthand for "--attest=type=sbom"`)
	list(&f.secrets, "secret", "", `Secret to expose to the build ("id=mysecret[,src=/local/secret]")`)
	s.Var(&f.shm, "shm-size", `Size of "/dev/shm"`)
	s.BoolVar(&f.squash, "squash", false, "Make one layer of all that the build makes")
	list(&f.ssh, "ssh", "", `SSH agent socket or keys to expose to the build ("default|<id>[=<socket>|<key>[,<key>]]")`)
	list(&f.tags, "tag", "t", `Name and optionally a tag in the "name:tag" format`)
	s.StringVar(&f.target, "target", "", "Set the target build stage to build")
	f.ulimits = opts.NewUlimitOpt(&map[string]*container.Ulimit{})
	s.Var(f.ulimits, "ulimit", "Ulimit options")

	s.VarP(&f.memory, "memory", "m", `Memory limit of a "RUN" instruction`)
	s.Var(&f.swap, "memory-swap", `Swap limit equal to memory plus swap: -1 to enable unlimited swap`)
	s.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	s.Int64Var(&f.cpuPeriod, "cpu-period", 0, "Limit the CPU CFS (Completely Fair Scheduler) period")
	s.Int64Var(&f.cpuQuota, "cpu-quota", 0, "Limit the CPU CFS (Completely Fair Scheduler) quota")
	s.StringVar(&f.cpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	s.StringVar(&f.mems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	ignored(s)
}

// ignored are flags of docker's classic builder that mean nothing to BuildKit, and
// are there so that scripts which give them go on.
func ignored(s *pflag.FlagSet) {
	s.Bool("rm", true, "")
	s.Bool("force-rm", false, "")
	s.Bool("compress", false, "")
	s.Bool("disable-content-trust", true, "")
	s.StringSlice("security-opt", nil, "")
	for _, name := range []string{"rm", "force-rm", "compress", "disable-content-trust", "security-opt"} {
		s.Lookup(name).Hidden = true
	}
	s.Lookup("provenance").NoOptDefVal, s.Lookup("sbom").NoOptDefVal = "true", "true"
}

// progressFromEnv is the display that BuildKit's clients read from the environment.
func progressFromEnv() string {
	if p := os.Getenv("BUILDKIT_PROGRESS"); p != "" {
		return p
	}
	return "auto"
}
