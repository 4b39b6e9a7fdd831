package app

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/spool"
)

// newOps returns ops whose readiness a test decides.
func newOps(ready *error, log *testutil.LogBuffer) *ops {
	open := new(access.Current)
	door, _ := access.New(access.Options{Anonymous: true}) // it has no accounts that could clash
	open.Store(door)
	return &ops{
		access:  open,
		ready:   func(context.Context) error { return *ready },
		content: storage.NewHealth(discard(), "content"), gatherer: newGatherer(),
		page:   newPage(func() []string { return []string{"ghcr.io/acme", "docker.io"} }),
		logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func get(t *testing.T, h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// A mirror that cannot store is ready, and says so. One that cannot work is alive.
func TestOps(t *testing.T) {
	var ready error
	log := new(testutil.LogBuffer)
	o := newOps(&ready, log)
	h := o.handler()
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n"} {
		if w := get(t, h, path); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := get(t, h, "/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), "weir_build_info{") {
		t.Errorf("/metrics: %d", w.Code)
	}
	o.content.Failed(&spool.NoSpaceError{Path: "/data/tmp", Err: syscall.ENOSPC})
	if w := get(t, h, "/readyz"); w.Code != 200 || !strings.Contains(w.Body.String(), "without being stored: not enough free space. Free space") {
		t.Errorf("full: %d %s", w.Code, w.Body)
	}
	ready = errors.New("the disk is gone")
	if w := get(t, h, "/readyz"); w.Code != 503 || w.Body.String() != "not ready: the log has the reason\n" {
		t.Errorf("gone: %d %s", w.Code, w.Body)
	}
	if w := get(t, h, "/healthz"); w.Code != 200 {
		t.Errorf("alive and not ready: %d", w.Code)
	}
	var levels []string
	for line := range strings.Lines(log.String()) {
		var fields struct {
			Level, Msg, Client, Operation, Path string
			Status                              int
		}
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if fields.Msg == "not ready: no file can be created in the store" {
			levels = append(levels, "not ready: "+fields.Level)
			continue
		}
		if fields.Msg != "request" || fields.Client != "192.0.2.1" || fields.Operation != "other" || fields.Path == "" || fields.Status == 0 {
			t.Error(line)
		}
		levels = append(levels, fields.Level)
	}
	if want := []string{"DEBUG", "DEBUG", "DEBUG", "DEBUG", "not ready: ERROR", "DEBUG", "DEBUG"}; !slices.Equal(levels, want) {
		t.Errorf("%v, want %v", levels, want)
	}
}

// The log says once why a mirror is not ready, and once that it is again.
func TestReadinessIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ready error
		log := new(testutil.LogBuffer)
		h := newOps(&ready, log).handler()
		failure := &disk.Error{Doing: "write to the store", Reason: disk.ReadOnly, Err: &fs.PathError{Op: "open", Path: "/data/tmp/1", Err: syscall.EROFS}}
		for range 50 {
			for _, ready = range []error{failure, failure, nil} {
				get(t, h, "/readyz")
				time.Sleep(time.Second)
			}
		}
		if begins, ends := log.Count("not ready", "read-only"), log.Count("ready again"); begins != 1 || ends != 0 || log.Count(`"WARN"`) > 0 {
			t.Errorf("it flaps: %d begins and %d ends", begins, ends)
		}
		ready = nil
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := log.Count("ready again"); got != 1 {
			t.Errorf("%d ends", got)
		}
	})
}

// Prometheus asks for OpenMetrics. promtool and people get the text format.
func TestMetricsFormats(t *testing.T) {
	var ready error
	h := newOps(&ready, new(testutil.LogBuffer)).handler()
	for accept, want := range map[string]string{
		"":           "text/plain",
		"text/plain": "text/plain",
		"application/openmetrics-text;version=1.0.0,text/plain;q=0.5": "application/openmetrics-text",
	} {
		w := get(t, h, "/metrics", "Accept", accept)
		open := strings.HasSuffix(w.Body.String(), "# EOF\n")
		if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, want+";") || open != strings.Contains(want, "openmetrics") {
			t.Errorf("%q: %s, ending as OpenMetrics: %v", accept, got, open)
		}
	}
}

// A panic is answered, and logged with its stack.
func TestOpsPanic(t *testing.T) {
	log := new(testutil.LogBuffer)
	o := newOps(new(error), log)
	o.ready = func(context.Context) error { panic("a bug") }
	if w := get(t, o.handler(), "/readyz"); w.Code != 500 || !strings.Contains(log.String(), "a bug") || !strings.Contains(log.String(), "ops_test.go") {
		t.Errorf("%d %s, logged %s", w.Code, w.Body, log)
	}
}

// The API gets all paths that begin with /v2, as they are; ops gets the rest, and
// answers unknown paths with an error document.
func TestMount(t *testing.T) {
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("api " + r.URL.Path)) })
	h := mount(api, newOps(new(error), new(testutil.LogBuffer)).handler())
	for _, path := range []string{"/v2", "/v2/", "/v2/a//b/../c", "/v2x"} {
		if w := get(t, h, path); w.Body.String() != "api "+path {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := get(t, h, "/healthz"); w.Body.String() != "ok\n" {
		t.Errorf("/healthz: %s", w.Body)
	}
	for _, path := range []string{"/ui", "//v2/", "/" + strings.Repeat("x", 400)} {
		w := get(t, h, path)
		code, message := oci.ReadError(w.Body)
		if w.Code != 404 || code != "NAME_UNKNOWN" || !strings.HasPrefix(message, "no such endpoint: ") {
			t.Errorf("%s: %d %s %s", path, w.Code, code, message)
		}
	}
}

// The metrics of a mirror are those of one registry, without duplicates.
func TestGather(t *testing.T) {
	cfg, _ := loadText(t, twoRepositories)
	m, err := build(cfg, discard())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	families, err := prometheus.Gatherer(m.gatherer).Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, family := range families {
		values[family.GetName()] = family.GetMetric()[0].GetGauge().GetValue()
	}
	for name, want := range map[string]float64{"weir_build_info": 1, "weir_store_writable": 1, "weir_store_failing": 0, "weir_store_bytes": 0} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v", name, got)
		}
	}
	if values["weir_store_free_bytes"] <= 0 {
		t.Errorf("free: %v", values["weir_store_free_bytes"])
	}
}

// Connections of a health check, which prove nothing, reach the probes alone.
func TestProbesOnly(t *testing.T) {
	handler := probesOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for path, want := range map[string]int{
		"/healthz": http.StatusNoContent, "/readyz": http.StatusNoContent, "/metrics": http.StatusNotFound, "/": http.StatusNotFound, "/v2/": http.StatusNotFound,
		"/healthz/": http.StatusNotFound, "//healthz": http.StatusNotFound, "/healthz/../metrics": http.StatusNotFound, "/%68ealthz": http.StatusNoContent,
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		r.URL = u
		handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}
