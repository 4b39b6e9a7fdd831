package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/weirhq/weir/"

// rows are the floors of the house, as docs/design.md draws them: a package
// imports packages of the rows below its own only.
var rows = [][]string{
	{"cmd/weir"},
	{"app", "check", "pages"},
	{"registry", "api", "api/client"},
	{"namespace", "namespace/route", "namespace/jobs", "namespace/keepwarm", "namespace/ondemand", "namespace/pulls", "namespace/inventory", "namespace/traffic"},
	{"upstream", "upstream/sharedcooldown", "warm", "warm/remote"},
	{"storage/download", "storage/evict", "storage/catalog", "storage/memcache", "storage/maintain", "storage/tier", "door/acme"},
	{"storage", "storage/spool", "storage/disk", "storage/s3"},
	{"tokencache", "config", "clientconfig", "door", "cluster"},
	{"access"},
	{"oci", "internal/bounded", "internal/bulk", "internal/flight", "internal/cooldown", "internal/notify", "internal/keylock", "internal/units", "internal/hosts", "internal/zone", "internal/via", "internal/whoami", "internal/regular", "internal/printable", "internal/episode", "internal/forwarded", "internal/rediscluster", "internal/seal", "internal/shortage", "internal/credhelper", "internal/turns", "internal/reply", "internal/sse", "internal/buildinfo"},
}

// within are the imports that stay within a row. Before you add one, check that
// neither package is a sibling that must not know the other.
var within = map[string][]string{
	"api/client":              {"api"},
	"app":                     {"check", "pages"},
	"pages":                   {"check"},
	"namespace":               {"namespace/route", "namespace/jobs", "namespace/keepwarm"},
	"namespace/keepwarm":      {"namespace/jobs"},
	"upstream":                {"upstream/sharedcooldown"},
	"upstream/sharedcooldown": {"upstream"},
	"warm/remote":             {"warm"},
	"storage":                 {"storage/spool"},
	"storage/disk":            {"storage", "storage/spool"},
	"storage/s3":              {"storage", "storage/spool"},
	"internal/credhelper":     {"internal/episode"},
	"internal/flight":         {"internal/notify"},
	"internal/forwarded":      {"internal/printable"},
	"internal/turns":          {"internal/hosts"},
}

// alone are packages that some of ours keep to themselves.
var alone = map[string]string{
	module + "config":              "app cmd/weir",
	"github.com/fsnotify/fsnotify": "app",
	"github.com/lmittmann/tint":    "app",
	"github.com/spf13/cobra":       "cmd/weir",
	"github.com/BurntSushi/toml":   "config",
	"github.com/dlclark/regexp2":   "config namespace",
	"github.com/bsm/redislock":     "app",
	"github.com/redis/go-redis/v9": "app cluster internal/rediscluster tokencache upstream/sharedcooldown",
	"github.com/google/go-cmp/cmp": "",

	"github.com/getkin/kin-openapi/openapi3": "",
	"go.uber.org/goleak":                     "",

	"github.com/coreos/go-systemd/v22/daemon": "app",

	"github.com/KimMachineGun/automemlimit/memlimit": "app",

	"go.opentelemetry.io/otel":                                        "app", // its globals
	"go.opentelemetry.io/otel/sdk/trace":                              "app",
	"go.opentelemetry.io/otel/sdk/resource":                           "app",
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace":               "app",
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc": "app",
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp": "app",
	"go.opentelemetry.io/contrib/propagators/autoprop":                "app",
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp":   "registry",

	"github.com/minio/minio-go/v7":                 "storage/s3",
	"github.com/minio/minio-go/v7/pkg/credentials": "storage/s3",
	"github.com/minio/minio-go/v7/pkg/lifecycle":   "storage/s3",

	"cel.dev/cel-go/cel":               "access",
	"github.com/bmatcuk/doublestar/v4": "access",
	"github.com/vbauerster/mpb/v8":     "cmd/weir",
}

func TestImportsPointOneWay(t *testing.T) {
	for _, pkg := range goList(t) {
		name := strings.TrimPrefix(pkg.ImportPath, module)
		row, product := rowOf(name)
		if !product {
			if !forTests(name) {
				t.Errorf("%s is in no row of this test. Add it to the row that docs/design.md gives it.", name)
			}
			continue
		}
		for _, path := range pkg.Imports {
			if users, kept := alone[path]; kept && !slices.Contains(strings.Fields(users), name) {
				t.Errorf("%s must not import %s", name, path)
			}
			if ours, isOurs := strings.CutPrefix(path, module); isOurs && !mayImport(name, row, ours) {
				t.Errorf("%s must not import %s", name, ours)
			}
		}
	}
}

// The page of the design draws the rows of this test, and each package in them
// exists. It writes a package's children in parentheses, and all of internal as
// internal/*.
func TestRowsAreThoseOfTheDesign(t *testing.T) {
	blocks := readPage(t, "../docs/design.md").blocks
	drawn := slices.IndexFunc(blocks, func(b codeBlock) bool { return strings.HasPrefix(b.text, rows[0][0]+"\n") })
	if drawn < 0 {
		t.Fatalf("docs/design.md has no block of code that begins with the row %s", rows[0])
	}
	var got, want [][]string
	for line := range strings.Lines(blocks[drawn].text) {
		got = append(got, drawnRow(line))
	}
	for _, row := range rows {
		var names []string
		for _, name := range row {
			if _, err := os.Stat(filepath.Join("..", name)); err != nil {
				t.Errorf("a row of this test has %s: %v", name, err)
			}
			if strings.HasPrefix(name, "internal/") {
				name = "internal/*"
			}
			names = append(names, name)
		}
		slices.Sort(names)
		want = append(want, slices.Compact(names))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the rows of this test (-) and of docs/design.md (+) differ: %s", d)
	}
}

// drawnRow returns the packages of a row, sorted. "namespace (jobs, route)   warm"
// are four.
func drawnRow(line string) []string {
	var names []string
	for _, found := range regexp.MustCompile(`([a-z0-9/*]+)(?: \(([a-z0-9, ]+)\))?`).FindAllStringSubmatch(line, -1) {
		names = append(names, found[1])
		for child := range strings.SplitSeq(found[2], ", ") {
			if child != "" {
				names = append(names, found[1]+"/"+child)
			}
		}
	}
	slices.Sort(names)
	return names
}

// mayImport reports whether a package of a row may import another one of ours.
// Packages that are made for tests are in no row, so no product package may.
func mayImport(name string, row int, other string) bool {
	otherRow, product := rowOf(other)
	return product && (otherRow > row || slices.Contains(within[name], other))
}

func rowOf(name string) (row int, product bool) {
	row = slices.IndexFunc(rows, func(row []string) bool { return slices.Contains(row, name) })
	return row, row >= 0
}

// forTests reports whether a package is made for tests, such as the scripted
// registry upstream/upstreamtest.
func forTests(name string) bool {
	return strings.HasPrefix(name, "tests") || strings.HasSuffix(name, "test") || name == "internal/testutil"
}

type listed struct {
	ImportPath string
	Imports    []string
}

func goList(t *testing.T) []listed {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg listed
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, pkg)
	}
}
