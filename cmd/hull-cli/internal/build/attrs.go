package build

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/opts"
	"github.com/moby/buildkit/client"
	bkbuild "github.com/moby/buildkit/cmd/buildctl/build"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
)

// attrs are what the flags say to the Dockerfile frontend.
func (f *flags) attrs(c command.Cli) (map[string]string, error) {
	a := map[string]string{"image-resolve-mode": "local"}
	if f.pull {
		a["image-resolve-mode"] = "pull"
	}
	set := func(k, v string) {
		if v != "" {
			a[k] = v
		}
	}
	number := func(k string, n int64) {
		if n != 0 {
			a[k] = strconv.FormatInt(n, 10)
		}
	}
	set("target", f.target)
	set("platform", f.platform)
	set("cgroup-parent", f.cgroup)
	set("isolation", f.isolation)
	if f.network != "default" && f.network != "bridge" {
		set("force-network-mode", f.network)
	}
	set("no-cache", strings.Join(f.noCacheFilter, ","))
	if f.noCache {
		a["no-cache"] = ""
	}
	number("shm-size", f.shm.Value())
	number("memory", f.memory.Value())
	number("memswap", f.swap.Value())
	number("cpushares", f.cpuShares)
	number("cpuperiod", f.cpuPeriod)
	number("cpuquota", f.cpuQuota)
	set("cpusetcpus", f.cpus)
	set("cpusetmems", f.mems)
	var limits []string
	for _, u := range f.ulimits.GetList() {
		limits = append(limits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	set("ulimit", strings.Join(limits, ","))
	hosts, err := frontendHosts(f.hosts)
	if err != nil {
		return nil, err
	}
	set("add-hosts", hosts)
	for k, v := range c.ConfigFile().ParseProxyConfig(c.Client().DaemonHost(), opts.ConvertKVStringsToMapWithNil(f.args)) {
		if v == nil {
			text, ok := os.LookupEnv(k)
			if !ok {
				continue // the Dockerfile's own default
			}
			v = &text
		}
		a["build-arg:"+k] = *v
	}
	for k, v := range opts.ConvertKVStringsToMap(f.labels) {
		a["label:"+k] = v
	}
	return a, f.statements(a)
}

// statements are attributes for what is to be said about the image (SBOM,
// provenance): the long form and the two short ones.
func (f *flags) statements(a map[string]string) error {
	list := f.attests
	for kind, v := range map[string]string{"sbom": f.sbom, "provenance": f.provenance} {
		switch on, err := strconv.ParseBool(v); {
		case v == "":
		case err != nil:
			list = append(list, "type="+kind+","+v)
		default:
			list = append(list, "type="+kind+",disabled="+strconv.FormatBool(!on))
		}
	}
	for _, text := range list {
		kind, off, rest := "", false, []string(nil)
		fields, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			return fmt.Errorf("attestation %q: %w", text, err)
		}
		for _, field := range fields {
			k, v, _ := strings.Cut(field, "=")
			switch strings.ToLower(k) {
			case "type":
				kind = v
			case "disabled":
				if off, err = strconv.ParseBool(v); err != nil {
					return fmt.Errorf("attestation %q: %w", text, err)
				}
			default:
				rest = append(rest, field)
			}
		}
		if kind == "" {
			return fmt.Errorf("attestation %q has no type", text)
		}
		if !off {
			a["attest:"+kind] = strings.Join(rest, ",")
		}
	}
	return nil
}

// frontendHosts turns "name:ip" and "name=ip" into the frontend's "name=ip,...".
func frontendHosts(list []string) (string, error) {
	var out []string
	for _, h := range list {
		name, ip, ok := strings.Cut(h, "=")
		if !ok {
			name, ip, ok = strings.Cut(h, ":")
		}
		if !ok || name == "" || ip == "" {
			return "", fmt.Errorf("--add-host %s is not HOST:IP", h)
		}
		out = append(out, name+"="+strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"))
	}
	return strings.Join(out, ","), nil
}

// annotations are attributes of exporters of images: "KEY=VALUE", of the manifest,
// or "manifest[PLATFORM],index:KEY=VALUE".
func (f *flags) annotations() (map[string]string, error) {
	out := map[string]string{}
	for _, text := range f.annotated {
		kinds, rest, ok := strings.Cut(text, ":")
		if !ok || strings.Contains(kinds, "=") {
			kinds, rest = "manifest", text
		}
		k, v, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, fmt.Errorf("--annotation %q is not KEY=VALUE", text)
		}
		for kind := range strings.SplitSeq(kinds, ",") {
			out["annotation-"+kind+"."+k] = v
		}
	}
	return out, nil
}

// exports are where the result goes: to the engine's images unless something else
// was asked for.
func (f *flags) exports() ([]client.ExportEntry, error) {
	list := f.outputs
	if f.push {
		list = append(list, "type=registry")
	}
	if f.load || len(list) == 0 {
		list = append(list, "type=docker")
	}
	said, err := f.annotations()
	if err != nil {
		return nil, err
	}
	if f.squash {
		said["squash"] = "true"
	}
	var out []client.ExportEntry
	for _, text := range list {
		switch {
		case text == "-":
			text = "type=tar,dest=-"
		case !strings.Contains(text, "="):
			text = "type=local,dest=" + text
		}
		kind, attrs, err := fields(text)
		if err != nil {
			return nil, fmt.Errorf("--output %s: %w", text, err)
		}
		name := strings.Join(f.tags, ",")
		switch {
		case kind == "cacheonly":
			continue
		case kind == "image", kind == "registry", kind == "docker" && attrs["dest"] == "":
			// These are the engine's own images.
			e := client.ExportEntry{Type: "moby", Attrs: attrs}
			if kind == "registry" {
				e.Attrs["push"] = "true"
			}
			if name != "" {
				e.Attrs["name"] = name
			}
			maps.Copy(e.Attrs, said)
			if e.Attrs["push"] == "true" && e.Attrs["name"] == "" {
				return nil, errors.New("a name is needed to push: give it with -t")
			}
			out = append(out, e)
			continue
		}
		some, err := bkbuild.ParseOutput([]string{text})
		if err != nil {
			return nil, fmt.Errorf("--output %s: %w", text, err)
		}
		if kind == "oci" || kind == "docker" {
			some[0].Attrs["name"] = name
			maps.Copy(some[0].Attrs, said)
		}
		out = append(out, some...)
	}
	return out, nil
}

// fields reads "type=T,key=value,...".
func fields(text string) (kind string, attrs map[string]string, err error) {
	list, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return "", nil, err
	}
	attrs = map[string]string{}
	for _, field := range list {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return "", nil, fmt.Errorf("%q is not KEY=VALUE", field)
		}
		attrs[strings.ToLower(strings.TrimSpace(k))] = v
	}
	kind = attrs["type"]
	delete(attrs, "type")
	return kind, attrs, nil
}

// caches are where a build's cache comes from and goes to. A name alone is one in a
// registry.
func (f *flags) caches() (from, to []client.CacheOptionsEntry, err error) {
	full := func(list []string) (out []string) {
		for _, text := range list {
			if !strings.Contains(text, "=") {
				text = "type=registry,ref=" + text
			}
			out = append(out, text)
		}
		return out
	}
	if from, err = bkbuild.ParseImportCache(full(f.cacheFrom)); err != nil {
		return nil, nil, fmt.Errorf("--cache-from: %w", err)
	}
	if to, err = bkbuild.ParseExportCache(full(f.cacheTo)); err != nil {
		return nil, nil, fmt.Errorf("--cache-to: %w", err)
	}
	return from, to, nil
}

// attachables are what a build may ask this client for.
func (f *flags) attachables(cfg *configfile.ConfigFile) ([]session.Attachable, error) {
	var out []session.Attachable
	if len(cfg.AuthConfigs) > 0 || cfg.CredentialsStore != "" || len(cfg.CredentialHelpers) > 0 {
		// Without any of its own, the engine's are used.
		out = append(out, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{AuthConfigProvider: authprovider.LoadAuthConfig(cfg)}))
	}
	secrets, err := bkbuild.ParseSecret(f.secrets)
	if err != nil {
		return nil, fmt.Errorf("--secret: %w", err)
	}
	out = append(out, secrets)
	if len(f.ssh) > 0 {
		agents, err := bkbuild.ParseSSH(f.ssh)
		if err != nil {
			return nil, fmt.Errorf("--ssh: %w", err)
		}
		ssh, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return nil, fmt.Errorf("--ssh: %w", err)
		}
		out = append(out, ssh)
	}
	return out, nil
}

// entitlements are what the user allows the build beyond the usual.
func (f *flags) entitlements() []string {
	list := append([]string(nil), f.allow...)
	if f.network == "host" {
		list = append(list, "network.host") // who asks for the host's network allows it
	}
	return list
}

// requested is the attributes of a question to the frontend instead of a build.
func requested(attrs map[string]string, question string) map[string]string {
	a := maps.Clone(attrs)
	a["requestid"] = question
	a["frontend.caps"] = "moby.buildkit.frontend.subrequests"
	return a
}
