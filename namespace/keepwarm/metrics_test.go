package keepwarm_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/namespace/jobs"
	"github.com/weirhq/weir/namespace/keepwarm"
	"github.com/weirhq/weir/oci"
)

// measured is a Warmer in fake time with its metrics and its log.
type measured struct {
	*keepwarm.Warmer
	t        *testing.T
	pool     *jobs.Pool
	registry *prometheus.Registry
	log      testutil.LogBuffer
}

func measuredBubble(t *testing.T, size int, test func(t *testing.T, w *measured)) {
	synctest.Test(t, func(t *testing.T) {
		w := &measured{t: t, registry: prometheus.NewRegistry()}
		logger := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		w.pool = jobs.NewPool(size, nil, logger)
		defer w.pool.Close()
		w.Warmer = keepwarm.New(w.pool, keepwarm.NewMetrics(w.registry), logger)
		defer w.Close()
		test(t, w)
	})
}

// values returns the metrics by their names and labels, such as
// "weir_warm_total up.example done".
func (w *measured) values() map[string]float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

// want checks metrics. The value -1 stands for a series that does not exist.
func (w *measured) want(want map[string]float64) {
	w.t.Helper()
	got := w.values()
	for name, value := range want {
		if v, ok := got[name]; value < 0 && ok || value >= 0 && (!ok || v != value) {
			w.t.Errorf("%s is %v (exists: %t), want %v", name, v, ok, value)
		}
	}
}

func unix(at time.Time) float64 { return float64(at.UnixMilli()) / 1000 }

// The gauges tell the images that fail and how old the oldest success is. The series
// exist before the first warming, and go with the last image.
func TestGauges(t *testing.T) {
	measuredBubble(t, 4, func(t *testing.T, w *measured) {
		start := time.Now()
		f := &fake{key: "up.example", images: every(24*time.Hour, "app"), fail: errors.New("the upstream is away"), start: start}
		w.Apply([]keepwarm.Namespace{f})
		w.want(map[string]float64{
			"weir_warm_total up.example done": 0, "weir_warm_total up.example failed": 0, "weir_warm_total up.example dropped": 0,
			"weir_warm_failing up.example": 0, "weir_warm_oldest_success_timestamp_seconds up.example": unix(start),
		})
		time.Sleep(30 * time.Second)
		// An image that was never warm ages from the time when it was first wanted.
		w.want(map[string]float64{
			"weir_warm_total up.example done": 0, "weir_warm_total up.example failed": 1,
			"weir_warm_failing up.example": 1, "weir_warm_oldest_success_timestamp_seconds up.example": unix(start),
		})
		f.setFailure(nil)
		time.Sleep(time.Minute)
		w.want(map[string]float64{
			"weir_warm_total up.example done": 1, "weir_warm_total up.example failed": 1, "weir_warm_failing up.example": 0,
		})
		begun := f.times()
		if got, want := w.values()["weir_warm_oldest_success_timestamp_seconds up.example"], unix(start.Add(begun[len(begun)-1])); got != want {
			t.Errorf("the oldest success was at %v, want %v", got, want)
		}
		w.Apply(nil)
		w.want(map[string]float64{
			"weir_warm_total up.example done": -1, "weir_warm_failing up.example": -1, "weir_warm_oldest_success_timestamp_seconds up.example": -1,
		})
	})
}

// Of several images the one that was warm least recently counts.
func TestOldestSuccessOfSeveralImages(t *testing.T) {
	measuredBubble(t, 4, func(t *testing.T, w *measured) {
		f := &fake{key: "up.example", images: append(every(time.Hour, "often"), every(24*time.Hour, "seldom")...), start: time.Now()}
		w.Apply([]keepwarm.Namespace{f})
		time.Sleep(10 * time.Second)
		oldest := w.values()["weir_warm_oldest_success_timestamp_seconds up.example"]
		time.Sleep(5 * time.Hour)
		if got := w.values()["weir_warm_oldest_success_timestamp_seconds up.example"]; got < oldest || got > oldest+5 {
			t.Errorf("the oldest success moved from %v to %v", oldest, got)
		}
	})
}

// A pool that is full of other work drops a warming, which is due again a minute
// later.
func TestFullPoolDropsAWarming(t *testing.T) {
	measuredBubble(t, 1, func(t *testing.T, w *measured) {
		fill(t, w.pool)
		f := &fake{key: "up.example", images: every(24*time.Hour, "app"), start: time.Now()}
		w.Apply([]keepwarm.Namespace{f})
		time.Sleep(30 * time.Second)
		w.want(map[string]float64{"weir_warm_total up.example dropped": 1, "weir_warm_failing up.example": 0})
		time.Sleep(time.Minute)
		w.want(map[string]float64{"weir_warm_total up.example dropped": 2, "weir_warm_total up.example done": 0})
		if begun := f.times(); len(begun) > 0 {
			t.Errorf("warmed at %v", begun)
		}
	})
}

// An image that is no longer wanted is given up at once, and counts neither as warm
// nor as failed.
func TestUnwantedImageIsCancelled(t *testing.T) {
	measuredBubble(t, 4, func(t *testing.T, w *measured) {
		f := &fake{key: "up.example", images: every(time.Hour, "gone", "kept"), take: time.Hour, start: time.Now()}
		w.Apply([]keepwarm.Namespace{f})
		time.Sleep(10 * time.Second)
		if n := f.runs(); n != 2 {
			t.Fatalf("%d warmings run", n)
		}
		w.Apply([]keepwarm.Namespace{&fake{key: "up.example", images: every(time.Hour, "kept"), start: time.Now()}})
		synctest.Wait()
		// The other one is not disturbed.
		if n := f.runs(); n != 1 {
			t.Errorf("%d warmings run on", n)
		}
		time.Sleep(time.Hour)
		w.want(map[string]float64{"weir_warm_total up.example done": 1, "weir_warm_total up.example failed": 0, "weir_warm_total up.example dropped": 0})
	})
}

// An image with a short interval is tried again after that interval, not later.
func TestFailureDoesNotProlongAShortInterval(t *testing.T) {
	measuredBubble(t, 4, func(t *testing.T, w *measured) {
		f := &fake{key: "up.example", images: every(3*time.Minute, "app"), fail: errors.New("the upstream is away"), start: time.Now()}
		w.Apply([]keepwarm.Namespace{f})
		time.Sleep(30 * time.Minute)
		begun := f.times()
		for i := range begun[2:] {
			pause := (begun[i+2] - begun[i+1]).Round(time.Second)
			if i > 0 && pause != 3*time.Minute {
				t.Errorf("pause %d lasted %s", i+2, pause)
			}
		}
		if !strings.Contains(w.log.String(), "the upstream is away. Weir tries again in 3m0s") {
			t.Errorf("the log says\n%s", w.log.String())
		}
	})
}

// Images begin within five seconds, at moments of their own, and so do not ask an
// upstream together.
func TestFirstWarmingsAreSpread(t *testing.T) {
	measuredBubble(t, 64, func(t *testing.T, w *measured) {
		names := strings.Split("a b c d e f g h i j k l m n o p", " ")
		f := &fake{key: "up.example", images: every(time.Hour, names...), start: time.Now()}
		w.Apply([]keepwarm.Namespace{f})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		moments := make(map[time.Duration]bool)
		for _, at := range f.times() {
			moments[at.Round(time.Millisecond)] = true
		}
		if len(moments) < len(names)/2 {
			t.Errorf("%d images began at %d moments", len(names), len(moments))
		}
	})
}

// Two wishes for one image are one if all of them is equal, and else they are two.
func TestEqualImagesAreOne(t *testing.T) {
	image := keepwarm.Image{Name: "app", Reference: oci.ByTag("v1"), Every: time.Hour}
	for name, c := range map[string]struct {
		change func(*keepwarm.Image)
		want   int
	}{
		"equal":     {func(*keepwarm.Image) {}, 1},
		"name":      {func(i *keepwarm.Image) { i.Name = "other" }, 2},
		"tag":       {func(i *keepwarm.Image) { i.Reference = oci.ByTag("v2") }, 2},
		"digest":    {func(i *keepwarm.Image) { i.Reference = oci.ByDigest(digest.FromString("v1")) }, 2},
		"interval":  {func(i *keepwarm.Image) { i.Every = 2 * time.Hour }, 2},
		"platforms": {func(i *keepwarm.Image) { i.Platforms = []ocispec.Platform{{OS: "linux", Architecture: "amd64"}} }, 2},
		"referrers": {func(i *keepwarm.Image) { i.Referrers = true }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			measuredBubble(t, 4, func(t *testing.T, w *measured) {
				other := image
				c.change(&other)
				f := &fake{key: "up.example", images: []keepwarm.Image{image, other}, start: time.Now()}
				w.Apply([]keepwarm.Namespace{f})
				time.Sleep(10 * time.Second)
				if begun := f.times(); len(begun) != c.want {
					t.Errorf("%d warmings, want %d", len(begun), c.want)
				}
			})
		})
	}
}

// The pool's end cancels a warming, too.
func TestPoolCloseCancelsWarmings(t *testing.T) {
	measuredBubble(t, 4, func(t *testing.T, w *measured) {
		f := &fake{key: "up.example", images: every(time.Hour, "app"), take: time.Hour, start: time.Now()}
		w.Apply([]keepwarm.Namespace{f})
		time.Sleep(10 * time.Second)
		w.pool.Close()
		if n := f.runs(); n != 0 {
			t.Errorf("%d warmings run on", n)
		}
		w.want(map[string]float64{"weir_warm_total up.example failed": 0})
	})
}
