package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// {ghcr.io, acme/app} and {ghcr.io/acme, app} are printed alike. They have different
// upstreams, perhaps with different credentials, and share nothing: no lookup, no
// "not found", no tag, link or list. With both blocks all spellings lead to the second
// repository. With the first block alone, before and after, they lead to the first one.
func TestRepositoriesThatSpellAlike(t *testing.T) {
	t.Parallel()
	outer, inner := upstreamtest.New(t), upstreamtest.New(t)
	dir := t.TempDir()
	names := map[*upstreamtest.Registry]string{outer: "acme/app", inner: "app"}
	digests, blobs := make(map[*upstreamtest.Registry]digest.Digest), make(map[*upstreamtest.Registry]digest.Digest)
	for registry, name := range names {
		content := []byte("a layer of " + name)
		image := registry.AddImage(name, "v1", content)
		registry.AddReferrer(name, image, "application/x-of-"+strings.ReplaceAll(name, "/", "-"), []byte("of "+name))
		digests[registry], blobs[registry] = image.Digest, digest.FromBytes(content)
		registry.Tag(name, "only-"+strings.ReplaceAll(name, "/", "-"), image.Digest)
	}
	check := func(when string, w *harness.Weir, registry, other *upstreamtest.Registry) {
		t.Helper()
		own := digests[registry]
		var all sync.WaitGroup
		for range 4 { // the lookups of all spellings run at the same time
			for _, s := range []struct{ path, query string }{{"acme/app", "?ns=ghcr.io"}, {"ghcr.io/acme/app", ""}, {"ghcr.io/acme/app", "?ns=GHCR.io"}, {"ghcr.io/acme/app", "?ns=unknown.example"}} {
				all.Go(func() {
					when := when + ": " + s.path + s.query
					expectContent(t, when+": tag", w.Get(t, manifestPath(s.path, "v1")+s.query), own, "")
					expectContent(t, when+": blob", w.Get(t, blobPath(s.path, blobs[registry])+s.query), blobs[registry], "")
					expect(t, when+": the manifest of the other one", w.Get(t, manifestPath(s.path, digests[other].String())+s.query), http.StatusNotFound, "")
					expect(t, when+": the blob of the other one", w.Get(t, blobPath(s.path, blobs[other])+s.query), http.StatusNotFound, "")
					a := w.Get(t, "/v2/"+s.path+"/tags/list"+s.query)
					if expect(t, when, a, http.StatusOK, ""); strings.Contains(string(a.Body), "only-"+strings.ReplaceAll(names[other], "/", "-")+`"`) {
						t.Errorf("%s has the tags of the other one: %s", when, a.Body)
					}
					a = w.Get(t, "/v2/"+s.path+"/referrers/"+own.String()+s.query)
					if expect(t, when, a, http.StatusOK, ""); !strings.Contains(string(a.Body), "application/x-of-"+strings.ReplaceAll(names[registry], "/", "-")+`"`) {
						t.Errorf("%s: referrers: %s", when, a.Body)
					}
				})
			}
		}
		all.Wait()
	}
	alone := blockOf("ghcr.io", nil, at(outer))
	for _, start := range []struct {
		when, config    string
		answers, silent *upstreamtest.Registry
	}{
		{"the outer block alone", alone, outer, inner},
		{"both blocks", alone + blockOf("ghcr.io/acme", nil, at(inner)), inner, outer},
		{"the outer block alone again", alone, outer, inner},
	} {
		before := len(start.silent.Requests())
		w := harness.StartWeirIn(t, dir, start.config)
		check(start.when+", cold", w, start.answers, start.silent)
		check(start.when+", warm", w, start.answers, start.silent)
		if a := w.Get(t, "/v2/_catalog"); string(a.Body) != `{"repositories":["ghcr.io/acme/app"]}` {
			t.Errorf("%s: catalog: %s", start.when, a.Body)
		}
		if asked := start.silent.Requests()[before:]; len(asked) > 0 {
			t.Errorf("%s: the other registry was asked: %q", start.when, asked)
		}
		if code := w.Terminate(t); code != 0 {
			t.Errorf("exit %d", code)
		}
		w.ExpectIntact(t)
	}
}

// A repository is never identified by its printed name, which two of them may share.
// RepoID.String is called for people only: in the log, in traces, in errors and in
// lists of names. As the key of a map, of a lookup, of a job or of a record, the RepoID
// itself or a typed key with it is used.
func TestNoIdentityIsPrinted(t *testing.T) {
	t.Parallel()
	files := token.NewFileSet()
	exports := exportsOf(t)
	imports := importer.ForCompiler(files, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path].Export) })
	calls := 0
	for path, pkg := range exports {
		if !strings.HasPrefix(path, module) || strings.HasPrefix(path, module+"tests") {
			continue
		}
		var parsed []*ast.File
		for _, name := range pkg.GoFiles {
			file, err := parser.ParseFile(files, filepath.Join(pkg.Dir, name), nil, 0)
			harness.Must(t, err)
			parsed = append(parsed, file)
		}
		info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object), Selections: make(map[*ast.SelectorExpr]*types.Selection)}
		_, err := (&types.Config{Importer: imports}).Check(path, files, parsed, info)
		harness.Must(t, err)
		for _, file := range parsed {
			var above []ast.Node
			ast.Inspect(file, func(node ast.Node) bool {
				if node == nil {
					above = above[:len(above)-1]
					return true
				}
				if prints(info, node) {
					calls++
					if !forPeople(info, node, above) {
						t.Errorf("%s: the printed name of a repository is no identity. Use the storage.RepoID itself", files.Position(node.Pos()))
					}
				}
				above = append(above, node)
				return true
			})
		}
	}
	if calls < 10 {
		t.Errorf("found %d printed names: has the type moved?", calls)
	}
}

type built struct {
	ImportPath, Export, Dir string
	GoFiles                 []string
}

// exportsOf returns all packages of the module and those that they import, which are
// compiled already, as the mirror that the tests run.
func exportsOf(t *testing.T) map[string]built {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", fmt.Sprintf("-race=%t", harness.Raced), "-export", "-deps", "-json=ImportPath,Export,Dir,GoFiles", module+"cmd/weir").Output()
	harness.Must(t, err)
	packages := make(map[string]built)
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg built
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[pkg.ImportPath] = pkg
	}
}

func isRepoID(kind types.Type) bool {
	return kind != nil && kind.String() == module+"storage.RepoID"
}

// prints reports whether a node makes the printed name of a repository: a call of
// RepoID.String, or a format with a RepoID as an argument.
func prints(info *types.Info, node ast.Node) bool {
	call, ok := node.(*ast.CallExpr)
	if !ok {
		return false
	}
	callee, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	if callee.Sel.Name == "String" && isRepoID(info.TypeOf(callee.X)) {
		return true
	}
	function := info.Uses[callee.Sel]
	return function != nil && function.Pkg() != nil && function.Pkg().Path() == "fmt" && function.Name() != "Errorf" &&
		slices.ContainsFunc(call.Args, func(arg ast.Expr) bool { return isRepoID(info.TypeOf(arg)) })
}

// readers are the functions whose argument is read by people, or ordered only.
var readers = []string{
	"(*log/slog.Logger).Warn", "(*log/slog.Logger).Error", "(*log/slog.Logger).Info", "(*log/slog.Logger).Debug",
	"go.opentelemetry.io/otel/attribute.String", "cmp.Compare",
	"(*" + module + "storage.Health).Failed",
	"(*" + module + "namespace/route.Table[T]).Resolve", // the name is resolved to a RepoID again
}

// forPeople reports whether a printed name is for people: in a String method, or the
// argument of one of the readers.
func forPeople(info *types.Info, node ast.Node, above []ast.Node) bool {
	for _, outer := range slices.Backward(above) {
		switch outer := outer.(type) {
		case *ast.FuncDecl:
			return outer.Name.Name == "String" && outer.Recv != nil
		case *ast.CallExpr:
			if slices.Contains(readers, callee(info, outer)) {
				return true
			}
		case *ast.IndexExpr, *ast.CompositeLit, *ast.AssignStmt:
			return false
		}
	}
	return false
}

func callee(info *types.Info, call *ast.CallExpr) string {
	var name *ast.Ident
	switch function := call.Fun.(type) {
	case *ast.SelectorExpr:
		name = function.Sel
	case *ast.Ident:
		name = function
	default:
		return ""
	}
	if function, ok := info.Uses[name].(*types.Func); ok {
		return function.Origin().FullName()
	}
	return name.Name
}
