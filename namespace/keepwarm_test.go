package namespace_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// warmBubble runs a test of a Warmer in fake time. The count it gets is that of
// the warmings with a result.
func warmBubble(t *testing.T, pool int, test func(t *testing.T, m *mirror, w *keepwarm.Warmer, ended func(result string) int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := prometheus.NewRegistry()
		m := newMirror(t, pool, jobs.NewMetrics(r))
		w := keepwarm.New(m.pool, keepwarm.NewMetrics(r), slog.New(slog.NewTextHandler(m.log, nil)))
		defer w.Close()
		test(t, m, w, func(result string) int {
			families, err := r.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				for _, sample := range family.GetMetric() {
					if family.GetName() == "weir_warm_total" && sample.GetLabel()[1].GetValue() == result {
						return int(sample.GetCounter().GetValue())
					}
				}
			}
			return 0
		})
	})
}

// warmTable returns a table with one namespace that keeps images warm, each
// every hour.
func (m *mirror) warmTable(r *upstreamtest.Registry, images []string, change ...func(*namespace.Spec)) *namespace.Table {
	m.t.Helper()
	var spec namespace.Spec
	m.namespace("mirror", r, append(change, func(s *namespace.Spec) {
		for _, image := range images {
			name, tag, _ := strings.Cut(image, ":")
			s.Warm = append(s.Warm, keepwarm.Image{Name: name, Reference: oci.ByTag(tag), Every: time.Hour, Referrers: true})
		}
		spec = *s
	})...)
	table, err := namespace.NewTable(m.cache, []namespace.Spec{spec})
	if err != nil {
		m.t.Fatal(err)
	}
	return table
}

// pass lets time pass, and waits until everything due has happened.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestWarmerTellsOverlappingKeysApart has two namespaces whose images are printed
// alike.
func TestWarmerTellsOverlappingKeysApart(t *testing.T) {
	warmBubble(t, 4, func(t *testing.T, m *mirror, w *keepwarm.Warmer, ended func(string) int) {
		var specs []namespace.Spec
		o := newOverlap(m, func(s *namespace.Spec) {
			s.Warm = []keepwarm.Image{{Name: map[string]string{"ghcr.io": "acme/app", "ghcr.io/acme": "app"}[s.Key], Reference: oci.ByTag("v1"), Every: time.Hour}}
			specs = append(specs, *s)
		})
		for _, side := range o {
			side.registry.AddImage(side.repo, "v1", []byte("layer"))
		}
		table, err := namespace.NewTable(m.cache, specs)
		if err != nil {
			t.Fatal(err)
		}
		w.Apply(table.KeepWarm())
		pass(5 * time.Second)
		for _, side := range o {
			if len(side.registry.Requests()) == 0 {
				t.Errorf("%s was not warmed", side.namespace.Key())
			}
		}
	})
}

func TestWarmerKeepsToItsSchedule(t *testing.T) {
	warmBubble(t, 4, func(t *testing.T, m *mirror, w *keepwarm.Warmer, ended func(string) int) {
		r := m.registry("registry.example")
		image := r.AddImage("org/app", "v1", []byte("layer"))
		w.Apply(m.warmTable(r, []string{"mirror/org/app:v1"}).KeepWarm())
		pass(5 * time.Second)
		config := slices.DeleteFunc(r.Requests(), func(s string) bool { return !strings.Contains(s, "/blobs/") })
		if len(config) != 2 || len(r.Requests()) != 4 || ended("done") != 1 {
			t.Errorf("asked %q, %d done", r.Requests(), ended("done"))
		}
		if _, err := m.store.Stat(t.Context(), digest.FromString("layer")); err != nil {
			t.Errorf("the layer: %v", err)
		}
		r.ResetRequests()

		// From then on it costs a HEAD and a question, once an hour.
		referrers := fmt.Sprintf("GET /v2/org/app/referrers/%s 200", image.Digest)
		pass(57*time.Minute - 5*time.Second)
		wantRequests(t, r)
		pass(3*time.Minute + 5*time.Second)
		wantRequests(t, r, manifestRequest("HEAD", "org/app", "v1", 200), referrers)

		// A tag that has moved is downloaded.
		r.AddImage("org/app", "v1", []byte("another layer"))
		pass(time.Hour)
		if _, err := m.store.Stat(t.Context(), digest.FromString("another layer")); err != nil || ended("done") != 3 {
			t.Errorf("the new layer: %v; %d done", err, ended("done"))
		}
	})
}

func TestWarmerTriesAgain(t *testing.T) {
	warmBubble(t, 4, func(t *testing.T, m *mirror, w *keepwarm.Warmer, ended func(string) int) {
		r := m.registry("registry.example")
		w.Apply(m.warmTable(r, []string{"org/app:v1"}).KeepWarm())
		for n, pause := range []time.Duration{5 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 15 * time.Minute, 15 * time.Minute} {
			pass(pause)
			if got := ended("failed"); got != n+1 {
				t.Errorf("after another %s %d have failed, want %d", pause, got, n+1)
			}
		}
		if n := m.log.Count("manifest org/app v1: not found"); n != 7 {
			t.Errorf("%d lines say why", n)
		}
		r.AddImage("org/app", "v1", []byte("layer"))
		pass(15 * time.Minute)
		if ended("done") != 1 {
			t.Error("it is not warm at last")
		}
		r.Untag("org/app", "v1")
		for range 61 * 60 {
			if pass(time.Second); ended("failed") == 8 {
				break
			}
		}
		pass(time.Minute)
		if got := ended("failed"); got != 9 {
			t.Errorf("%d have failed, want 9: a success makes the pauses short again", got)
		}
	})
}

func TestWarmerFollowsReloads(t *testing.T) {
	warmBubble(t, 4, func(t *testing.T, m *mirror, w *keepwarm.Warmer, ended func(string) int) {
		r := m.registry("registry.example")
		gate := upstreamtest.NewGate()
		for _, repo := range []string{"kept", "gone", "added"} {
			r.AddImage(repo, "v1", []byte("layer of "+repo))
		}
		r.Fault(upstreamtest.Blobs, upstreamtest.Hold(gate))
		w.Apply(m.warmTable(r, []string{"kept:v1", "gone:v1"}).KeepWarm())
		pass(5 * time.Second)
		if n := len(slices.DeleteFunc(r.Requests(), func(s string) bool { return !strings.Contains(s, "/manifests/") })); n != 2 {
			t.Errorf("asked %q", r.Requests())
		}
		w.Apply(m.warmTable(r, []string{"kept:v1", "added:v1"}).KeepWarm())
		synctest.Wait()
		if _, reader, err := m.downloads.Open(t.Context(), digest.FromString("layer of kept"), download.Source{Repository: storage.RepoID{Namespace: "mirror", Name: "kept"}}); err != nil || reader == nil || !reader.Joined() {
			t.Errorf("an image that stays is disturbed: %v", err)
		} else {
			reader.Close()
		}
		gate.Open()
		pass(5 * time.Second)
		for repo, want := range map[string]bool{"kept": true, "gone": false, "added": true} {
			if _, err := m.store.Stat(t.Context(), digest.FromString("layer of "+repo)); (err == nil) != want {
				t.Errorf("%s: %v", repo, err)
			}
		}
		if ended("done") != 2 || ended("failed") != 0 {
			t.Errorf("%d done, %d failed", ended("done"), ended("failed"))
		}
		r.ResetRequests()
		w.Apply(m.warmTable(r, []string{"kept:v1"}, offline).KeepWarm())
		pass(2 * time.Hour)
		wantRequests(t, r)
		if ended("done") != 0 {
			t.Error("an image that cannot be downloaded is said to be warm")
		}
	})
}

// Half of the pool stays free for downloads that clients have left.
func TestWarmerLeavesRoom(t *testing.T) {
	warmBubble(t, 4, func(t *testing.T, m *mirror, w *keepwarm.Warmer, ended func(string) int) {
		r := m.registry("registry.example")
		gate := upstreamtest.NewGate()
		r.Fault(upstreamtest.Manifests, upstreamtest.Hold(gate))
		var images []string
		for i := range 5 {
			repo := fmt.Sprint("app", i)
			r.AddImage(repo, "v1", []byte(repo))
			images = append(images, repo+":v1")
		}
		w.Apply(m.warmTable(r, images).KeepWarm())
		pass(5 * time.Second) // all are due; longer, and the upstream counts as stalled
		if n := len(r.Requests()); n != 2 {
			t.Errorf("%d at once, want 2 of the pool's 4", n)
		}
		gate.Open()
		synctest.Wait()
		if ended("done") != 5 {
			t.Errorf("%d done", ended("done"))
		}
	})
}

// Close waits for no upstream, and gives up the running downloads.
func TestWarmerClose(t *testing.T) {
	warmBubble(t, 4, func(t *testing.T, m *mirror, w *keepwarm.Warmer, ended func(string) int) {
		r := m.registry("registry.example")
		r.AddImage("org/app", "v1", []byte("layer"))
		r.Fault(upstreamtest.Blobs, upstreamtest.Hold(upstreamtest.NewGate()))
		w.Apply(m.warmTable(r, []string{"org/app:v1"}).KeepWarm())
		pass(5 * time.Second)
		w.Close()
		synctest.Wait()
		if err := m.downloads.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if m.log.Count("level=WARN") != 0 || ended("failed") != 0 {
			t.Errorf("a shutdown counts as a failure")
		}
		r.ResetRequests()
		pass(2 * time.Hour)
		wantRequests(t, r)
	})
}

func TestWarmerMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		m := newMirror(t, 4, nil)
		w := keepwarm.New(m.pool, keepwarm.NewMetrics(registry), slog.New(slog.DiscardHandler))
		defer w.Close()
		r := m.registry("registry.example")
		r.AddImage("good", "v1", []byte("layer"))
		begin := time.Now()
		w.Apply(m.warmTable(r, []string{"good:v1", "bad:v1"}).KeepWarm())
		pass(5 * time.Second)
		want := fmt.Sprintf(`# HELP weir_warm_failing Images in warm lists whose last warming failed.
# TYPE weir_warm_failing gauge
weir_warm_failing{namespace="mirror"} 1
# HELP weir_warm_oldest_success_timestamp_seconds The time of the last successful warming of the image that was warmed longest ago. An image that was never warmed counts from the time when it was first configured.
# TYPE weir_warm_oldest_success_timestamp_seconds gauge
weir_warm_oldest_success_timestamp_seconds{namespace="mirror"} %d
# HELP weir_warm_total Warmings of images in warm lists that ended, by result: done, failed or dropped.
# TYPE weir_warm_total counter
weir_warm_total{namespace="mirror",result="done"} 1
weir_warm_total{namespace="mirror",result="dropped"} 0
weir_warm_total{namespace="mirror",result="failed"} 1
`, begin.Unix())
		names := []string{"weir_warm_failing", "weir_warm_oldest_success_timestamp_seconds", "weir_warm_total"}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), names...); err != nil {
			t.Error(err)
		}
		w.Apply(m.warmTable(r, nil).KeepWarm())
		if n, err := testutil.GatherAndCount(registry, names...); n != 0 || err != nil {
			t.Errorf("%d series of images that are not kept warm: %v", n, err)
		}
	})
}

// An image of which the registry lacks a platform and a foreign layer is kept warm
// without them.
func TestWarmerLeavesOutMissingContent(t *testing.T) {
	warmBubble(t, 4, func(t *testing.T, m *mirror, w *keepwarm.Warmer, ended func(string) int) {
		r := m.registry("up.example")
		kept := r.AddImage("app", "amd64", []byte("layer"))
		lost := r.AddManifest("app", "arm64", kept.MediaType, []byte(`{"schemaVersion":2,"layers":[]}`))
		foreign := digest.FromString("a foreign layer")
		windows := r.AddManifest("app", "windows", kept.MediaType,
			fmt.Appendf(nil, `{"schemaVersion":2,"layers":[{"digest":%q,"size":7,"urls":["https://elsewhere.example"]}]}`, foreign))
		r.Remove("app", lost.Digest)
		r.AddIndex("app", "v1", kept, windows, lost)
		w.Apply(m.warmTable(r, []string{"app:v1"}).KeepWarm())
		pass(time.Minute)
		if ended("done") != 1 || ended("failed") != 0 {
			t.Errorf("done %d, failed %d", ended("done"), ended("failed"))
		}
		if log := m.log.String(); strings.Count(log, "left_out=") != 1 || !strings.Contains(log, lost.Digest.String()) || !strings.Contains(log, foreign.String()) {
			t.Errorf("the log is %s", log)
		}
	})
}
