package arch

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestGenerated holds the generated documents to the tree: the module list of
// every binary (so that a new heavy dependency shows up in review) and the
// import table. With HULL_GENERATE=1 it writes them (make generate).
func TestGenerated(t *testing.T) {
	cmds, err := filepath.Glob(filepath.Join(root, "cmd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range cmds {
		if goFiles, _ := filepath.Glob(filepath.Join(dir, "*.go")); len(goFiles) == 0 {
			continue
		}
		name := filepath.Base(dir)
		generated(t, "docs/deps/"+name+".txt", dependencies(t, name))
	}
	generated(t, "docs/imports.md", importTable())
}

// generated compares a document with what it should be, or writes it.
func generated(t *testing.T, doc, want string) {
	t.Helper()
	file := filepath.Join(root, doc)
	if os.Getenv("HULL_GENERATE") != "" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil { // #nosec: a document
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Errorf("%s is missing: run make generate", doc)
		return
	}
	if string(got) != want {
		t.Errorf("%s is stale: run make generate and review the difference", doc)
	}
}

// dependencies lists the modules a binary is linked from, and how many packages
// of each.
func dependencies(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		`{{if .Standard}}std{{else}}{{.Module.Path}} {{.Module.Version}}{{end}}`, "./cmd/"+name)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list ./cmd/%s: %v", name, err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(out)) {
		count[strings.TrimSpace(line)]++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d packages of %d modules and the standard library (generated: make generate)\n\n", name, total(count), len(count)-2)
	for _, module := range sorted(count) {
		fmt.Fprintf(&b, "%5d  %s\n", count[module], module)
	}
	return b.String()
}

// importTable is Rules and Confined for people.
func importTable() string {
	var b strings.Builder
	b.WriteString("# Who may import whom\n\nGenerated from `internal/arch` by `make generate`; its tests hold the tree to it.\n\n" +
		"| package | may import (of ours) | never, not even through another |\n|---|---|---|\n")
	cell := func(list []string) string {
		if len(list) == 0 {
			return "nothing"
		}
		var short []string
		for _, p := range list {
			short = append(short, "`"+strings.TrimPrefix(p, "internal/")+"`")
		}
		return strings.Join(short, ", ")
	}
	for _, r := range Rules() {
		never := ""
		if len(r.Never) > 0 {
			never = cell(r.Never)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", strings.TrimPrefix(r.Package, "internal/"), cell(r.May), never)
	}
	b.WriteString("\n| foreign package | only in | why |\n|---|---|---|\n")
	for _, f := range Confined() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(f.Prefixes), cell(f.Only), f.Why)
	}
	return b.String()
}

func total(count map[string]int) int {
	n := 0
	for _, v := range count {
		n += v
	}
	return n
}

func sorted(count map[string]int) []string { return slices.Sorted(maps.Keys(count)) }
