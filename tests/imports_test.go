package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weirhq/weir/"

// arrows are the packages of ours that each package may import. What only tests
// use (the fakes) is not listed, and no product package may import it.
var arrows = map[string][]string{
	"clientconfig":  nil,
	"oci":           nil,
	"config":        nil,
	"tokencache":    nil,
	"storage/spool": nil,
	"storage":       {"storage/spool"},
	"storage/disk":  {"storage", "storage/spool"},
	"upstream":      {"tokencache"},
	"warm":          nil,
	"namespace":     {"storage", "storage/spool", "upstream", "warm"},
	"registry":      {"namespace", "storage", "upstream"},
	"cmd/weir": {
		"clientconfig", "config", "namespace", "registry", "storage", "storage/disk", "tokencache", "upstream", "upstream/sharedrest", "warm",
	},
	"upstream/sharedrest": nil,
}

// alone are foreign packages that one of ours keeps to itself.
var alone = map[string]string{
	"github.com/fsnotify/fsnotify": "cmd/weir",
	"github.com/spf13/cobra":       "cmd/weir",
	"github.com/BurntSushi/toml":   "config",
	"github.com/dlclark/regexp2":   "config namespace",
	"github.com/gorilla/mux":       "registry",
	"github.com/redis/go-redis/v9": "cmd/weir tokencache upstream/sharedrest",
	"github.com/felixge/httpsnoop": "registry",
	"github.com/google/go-cmp/cmp": "",
	"go.uber.org/goleak":           "",

	"github.com/coreos/go-systemd/v22/daemon": "cmd/weir",

	"go.opentelemetry.io/otel":                                        "cmd/weir", // its globals
	"go.opentelemetry.io/otel/sdk/trace":                              "cmd/weir",
	"go.opentelemetry.io/otel/sdk/resource":                           "cmd/weir",
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace":               "cmd/weir",
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc": "cmd/weir",
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp": "cmd/weir",
	"go.opentelemetry.io/contrib/propagators/autoprop":                "cmd/weir",
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp":   "registry",

	"github.com/distribution/reference": "config",
	"github.com/vbauerster/mpb/v8":      "cmd/weir",
}

func TestImportsPointOneWay(t *testing.T) {
	seen := 0
	for _, pkg := range goList(t) {
		name := strings.TrimPrefix(pkg.ImportPath, module)
		allowed, product := arrows[name]
		if !product {
			if !strings.HasPrefix(name, "tests") && !strings.HasSuffix(name, "test") {
				t.Errorf("%s is in no row of this test: say what it may import", name)
			}
			continue
		}
		seen++
		for _, path := range pkg.Imports {
			ours, isOurs := strings.CutPrefix(path, module)
			if isOurs && !slices.Contains(allowed, ours) {
				t.Errorf("%s must not import %s", name, ours)
			}
			if users, kept := alone[path]; kept && !slices.Contains(strings.Fields(users), name) {
				t.Errorf("%s must not import %s", name, path)
			}
		}
	}
	if seen != len(arrows) {
		t.Errorf("%d of the %d packages of this test exist", seen, len(arrows))
	}
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
