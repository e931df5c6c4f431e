package arch

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed is what `go list` says of a package.
type listed struct {
	ImportPath string
	Doc        string
	Standard   bool
	Imports    []string
	GoFiles    []string
}

// list returns our own packages by path relative to the module.
func list(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports,GoFiles,Standard", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]listed{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 { // test-only packages are not held to the table
			pkgs[relative(p.ImportPath)] = p
		}
	}
}

const root = "../.."

func relative(importPath string) string { return strings.TrimPrefix(importPath, Module+"/") }

func ours(importPath string) bool { return strings.HasPrefix(importPath, Module+"/") }

// match says whether pattern ("x", "x/...", "*") covers p.
func match(pattern, p string) bool {
	if pattern == "*" {
		return true
	}
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == dir || strings.HasPrefix(p, dir+"/")
	}
	return p == pattern
}

func matchAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return match(pattern, p) })
}

// violations checks one package of pkgs against the import table.
func violations(name string, pkgs map[string]listed) []string {
	i := slices.IndexFunc(Rules(), func(r Rule) bool { return match(r.Package, name) })
	if i < 0 {
		return []string{name + ": has no rule; add it to arch.Rules"}
	}
	rule := Rules()[i]
	var bad []string
	for _, imp := range pkgs[name].Imports {
		if ours(imp) && !matchAny(rule.May, relative(imp)) {
			bad = append(bad, name+" imports "+relative(imp))
		}
	}
	seen := map[string]bool{}
	var walk func(p string, via []string)
	walk = func(p string, via []string) {
		for _, imp := range pkgs[p].Imports {
			imp = relative(imp)
			if _, known := pkgs[imp]; !known || seen[imp] {
				continue
			}
			seen[imp] = true
			if matchAny(rule.Never, imp) {
				bad = append(bad, name+" reaches "+strings.Join(append(via, imp), " -> "))
			}
			walk(imp, append(slices.Clone(via), imp))
		}
	}
	walk(name, nil)
	return bad
}

func TestImportTable(t *testing.T) {
	pkgs := list(t)
	for name := range pkgs {
		for _, v := range violations(name, pkgs) {
			t.Error(v)
		}
	}
}

func TestImportTableCatches(t *testing.T) {
	imports := func(paths ...string) listed {
		var l listed
		for _, p := range paths {
			l.Imports = append(l.Imports, Module+"/"+p)
		}
		return l
	}
	pkgs := map[string]listed{
		"internal/engine": imports("internal/image", "internal/hull"),
		"internal/driver": imports("internal/hull"),
		"internal/hull":   imports("internal/undo"),
		"internal/undo":   {},
		"internal/image":  {},
		"internal/util":   {},
		"cmd/hull":        imports("api"),
		"api":             imports("internal/hull"),
	}
	want := map[string]int{
		"internal/engine": 2, // direct, and never
		"internal/driver": 0,
		"internal/hull":   1,
		"internal/util":   1, // no rule
		"cmd/hull":        2, // reaches internal/hull and internal/undo
	}
	for name, n := range want {
		if got := violations(name, pkgs); len(got) != n {
			t.Errorf("%s: %d violations, want %d: %v", name, len(got), n, got)
		}
	}
}

func TestForeignTypesAreConfined(t *testing.T) {
	for name, p := range list(t) {
		for _, imp := range p.Imports {
			for _, f := range Confined() {
				if matchForeign(f, imp) && !matchAny(f.Only, name) {
					t.Errorf("%s imports %s, which belongs to %s: %s", name, imp, strings.Join(f.Only, ", "), f.Why)
				}
			}
		}
	}
}

func matchForeign(f Foreign, imp string) bool {
	below := func(prefix string) bool { return imp == prefix || strings.HasPrefix(imp, prefix+"/") }
	return slices.ContainsFunc(f.Prefixes, below) && !slices.ContainsFunc(f.Except, below)
}

func TestPackageNames(t *testing.T) {
	for name := range list(t) {
		switch base := path.Base(name); base {
		case "util", "utils", "common", "helpers", "helper", "misc", "types", "manager", "base":
			t.Errorf("%s: a package is named after what it is about, not %q", name, base)
		}
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	for name, p := range list(t) {
		want := "Package " + path.Base(name) + " "
		if strings.HasPrefix(name, "cmd/") && !strings.HasPrefix(name, "cmd/internal/") {
			want = "Command " + path.Base(name) + " "
		}
		switch {
		case p.Doc == "":
			t.Errorf("%s has no package comment", name)
		case !strings.HasPrefix(p.Doc, want) && strings.Count(name, "/") <= 2 && !strings.HasPrefix(name, "test/"):
			t.Errorf("%s: package comment starts %q, want %q", name, p.Doc[:min(len(p.Doc), 30)], want)
		}
	}
}

// sources parses every Go file of the tree. Tests are included when asked.
func sources(t *testing.T, tests bool, visit func(file string, fset *token.FileSet, f *ast.File)) {
	t.Helper()
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return filepath.SkipDir
		case d.IsDir(), filepath.Ext(file) != ".go", !tests && strings.HasSuffix(file, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		visit(rel, fset, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoInitFunctions(t *testing.T) {
	sources(t, false, func(file string, _ *token.FileSet, f *ast.File) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: nothing may happen by being imported", file)
			}
		}
	})
}

func TestTypesStaySmall(t *testing.T) {
	methods := map[string]int{}
	sources(t, false, func(file string, fset *token.FileSet, f *ast.File) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil && len(fn.Recv.List) == 1 {
				methods[filepath.Dir(file)+"."+receiver(fn.Recv.List[0].Type)]++
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if st, ok := spec.Type.(*ast.StructType); ok && st.Fields.NumFields() > MaxFields {
				t.Errorf("%s: struct %s has %d fields, at most %d", fset.Position(spec.Pos()), spec.Name.Name, st.Fields.NumFields(), MaxFields)
			}
			return true
		})
	})
	for name, n := range methods {
		if n > MaxMethods {
			t.Errorf("%s has %d methods, at most %d", name, n, MaxMethods)
		}
	}
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

// The engine and the front doors branch on what a driver says of itself.
func TestNoDriverNamesAboveTheSeam(t *testing.T) {
	names := []string{"gvisor", "runsc", "qemu", "microvm", "firecracker"}
	sources(t, false, func(file string, fset *token.FileSet, f *ast.File) {
		if !strings.HasPrefix(file, "internal/engine/") && !strings.HasPrefix(file, "internal/front/") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if n.Kind == token.STRING && slices.ContainsFunc(names, func(s string) bool { return strings.Contains(strings.ToLower(n.Value), s) }) {
					t.Errorf("%s: %s names a driver", fset.Position(n.Pos()), n.Value)
				}
			case *ast.BinaryExpr: // x == hull.IsolationVM
				if n.Op == token.EQL || n.Op == token.NEQ {
					if isolation(n.X) || isolation(n.Y) {
						t.Errorf("%s: compares an isolation; ask driver.Info instead", fset.Position(n.Pos()))
					}
				}
			case *ast.CaseClause:
				if strings.HasPrefix(file, "internal/engine/") && slices.ContainsFunc(n.List, isolation) {
					t.Errorf("%s: switches on an isolation; ask driver.Info instead", fset.Position(n.Pos()))
				}
			}
			return true
		})
	})
}

func isolation(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && strings.HasPrefix(s.Sel.Name, "Isolation") && len(s.Sel.Name) > len("Isolation")
}

// Privileged tests are gated, so that they skip for a developer without root and
// fail where HULL_REQUIRE says they must run.
func TestPrivilegedTestsAreGated(t *testing.T) {
	sources(t, true, func(file string, fset *token.FileSet, f *ast.File) {
		if !strings.HasSuffix(file, "_root_test.go") {
			return
		}
		gates := map[string]bool{} // functions of this file that call require
		calls := map[string][]string{}
		var tests []*ast.FuncDecl
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if strings.HasPrefix(fn.Name.Name, "Test") && fn.Recv == nil && fn.Name.Name != "TestMain" {
				tests = append(tests, fn)
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				switch callee := call.Fun.(type) {
				case *ast.SelectorExpr:
					if x, ok := callee.X.(*ast.Ident); ok && x.Name == "require" {
						gates[fn.Name.Name] = true
					}
				case *ast.Ident:
					calls[fn.Name.Name] = append(calls[fn.Name.Name], callee.Name)
				}
				return true
			})
		}
		for _, fn := range tests {
			// A helper of another file of the package may hold the gate: then
			// its name says so (newX, setupX, ...Root).
			gated := gates[fn.Name.Name] || slices.ContainsFunc(calls[fn.Name.Name], func(c string) bool {
				return gates[c] || !declared(f, c)
			})
			if !gated {
				t.Errorf("%s: %s calls no gate of internal/require", fset.Position(fn.Pos()), fn.Name.Name)
			}
		}
	})
}

// declared says whether file f declares function name.
func declared(f *ast.File, name string) bool {
	return slices.ContainsFunc(f.Decls, func(d ast.Decl) bool {
		fn, ok := d.(*ast.FuncDecl)
		return (ok && fn.Name.Name == name) || slices.Contains([]string{"len", "append", "make", "panic", "new", "string", "byte", "int"}, name)
	})
}
