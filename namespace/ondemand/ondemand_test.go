package ondemand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// repository has one image with one layer at each tag, and waits for its gate before each layer.
type repository struct{ gate chan struct{} }

var layer = ocispec.Descriptor{Digest: digest.FromString("layer"), Size: 5}

func (repository) Manifest(_ context.Context, ref oci.Reference) (warm.Manifest, error) {
	if ref.Tag() == "gone" {
		return warm.Manifest{}, errors.New("gone\nfor ever")
	}
	body, err := json.Marshal(ocispec.Manifest{Config: ocispec.Descriptor{Digest: digest.FromString("{}"), Size: 2}, Layers: []ocispec.Descriptor{layer}})
	return warm.Manifest{Body: body}, err
}

func (repository) Referrers(context.Context, digest.Digest) ([]ocispec.Descriptor, error) {
	return nil, nil
}

func (r repository) Blob(ctx context.Context, _ ocispec.Descriptor, _ bool, _ func(int64)) (bool, error) {
	select {
	case <-r.gate:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

func open(gate chan struct{}) Options {
	return Options{
		Open: func(name string) (Repository, error) {
			if name == "removed" {
				return Repository{}, errors.New("it is mirrored no more")
			}
			return Repository{Source: repository{gate}, Explain: func(err error) string { return "explained " + err.Error() }}, nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}
}

func order(images ...Image) Order { return Order{Images: images, By: "alice"} }

func image(name, tag string) Image { return Image{name, oci.ByTag(tag)} }

// started starts a job.
func started(t *testing.T, r *Runner, o Order) string {
	t.Helper()
	job, err := r.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return job.ID
}

func find(t *testing.T, r *Runner, id string) Job {
	t.Helper()
	for _, j := range r.Jobs() {
		if j.ID == id {
			return j
		}
	}
	t.Fatalf("job %s is forgotten", id)
	return Job{}
}

// A job ends with its images, and tells on the way how much of them is there.
func TestJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := New(open(gate))
		defer r.Close()
		id := started(t, r, order(image("a/app", "v1")))
		synctest.Wait()
		j := find(t, r, id)
		if j.State != Running || !j.Ended.IsZero() || j.By != "alice" || j.Progress.Done.Objects != 1 || j.Progress.Total.Objects != 3 {
			t.Errorf("%+v", j)
		}
		close(gate)
		synctest.Wait()
		if j = find(t, r, id); j.State != Done || j.Ended.IsZero() || j.Warm != 1 || j.Progress.Done != j.Progress.Total || len(j.Errors) != 0 {
			t.Errorf("%+v", j)
		}
		if j, ok := r.Cancel(id); !ok || j.State != Done {
			t.Errorf("an ended job was cancelled: %+v", j)
		}
	})
}

// An image that fails does not keep the others from coming, and the errors are few and of one line.
func TestFailedImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		close(gate)
		r := New(open(gate))
		defer r.Close()
		images := []Image{image("removed", "v1")}
		for i := range 2 * maxErrors {
			images = append(images, image(fmt.Sprint("a/", i), "gone"))
		}
		id := started(t, r, order(append(images, image("a/app", "v1"))...))
		synctest.Wait()
		j := find(t, r, id)
		if j.State != Failed || j.Warm != 1 || j.Failed != len(images) || len(j.Errors) != maxErrors || j.Omitted != len(images)-maxErrors {
			t.Errorf("%+v", j)
		}
		all := strings.Join(j.Errors, "|")
		if !strings.Contains(all, "removed:v1: it is mirrored no more") || !strings.Contains(all, ":gone: explained ") || strings.Contains(all, "\n") {
			t.Errorf("%q", j.Errors)
		}
	})
}

// Jobs wait for a place, few of them, and a job that is cancelled frees its place.
func TestJobsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := New(open(gate))
		var ids []string
		for range maxUnended {
			ids = append(ids, started(t, r, order(image("a/app", "v1"))))
		}
		synctest.Wait()
		if _, err := r.Start(order(image("a/app", "v1"))); !errors.Is(err, ErrTooMany) {
			t.Errorf("one more: %v", err)
		}
		running := func() (n int) {
			for _, j := range r.Jobs() {
				if j.State == Running {
					n++
				}
			}
			return n
		}
		if n := running(); n != atOnce {
			t.Errorf("%d jobs run", n)
		}
		for _, id := range ids[:maxUnended/2] { // running and waiting ones
			if j, ok := r.Cancel(id); !ok || j.State != Cancelled {
				t.Errorf("%+v", j)
			}
		}
		synctest.Wait()
		if n := running(); n != atOnce {
			t.Errorf("%d jobs run", n)
		}
		if _, ok := r.Cancel("none"); ok {
			t.Error("no job was cancelled")
		}
		close(gate)
		synctest.Wait()
		for range 2 * maxKept {
			started(t, r, order(image("a/app", "v1")))
			synctest.Wait()
		}
		if n := len(r.Jobs()); n != maxKept {
			t.Errorf("%d jobs are remembered", n)
		}
		r.Close()
	})
}

// The end of the mirror cancels all jobs, and none begins behind it.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(open(nil))
		for range 2 * atOnce {
			started(t, r, order(image("a/app", "v1")))
		}
		synctest.Wait()
		r.Close()
		for _, j := range r.Jobs() {
			if j.State != Cancelled || len(j.Errors) != 0 {
				t.Errorf("%+v", j)
			}
		}
		if _, err := r.Start(order(image("a/app", "v1"))); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// An upstream that never ends a blob holds the place of an image, and of a job, for so long only.
func TestLongJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(open(nil))
		defer r.Close()
		one := started(t, r, order(image("a/app", "v1")))
		var images []Image
		for i := range 20 {
			images = append(images, image(fmt.Sprint("a/", i), "v1"))
		}
		many := started(t, r, order(images...))
		time.Sleep(longestImage + time.Minute)
		if j := find(t, r, one); j.State != Failed || j.Failed != 1 || !strings.Contains(strings.Join(j.Errors, "|"), errImageTooLong.Error()) {
			t.Errorf("%+v", j)
		}
		if j := find(t, r, many); j.State != Running || j.Failed != imagesAtOnce {
			t.Errorf("%+v", j)
		}
		time.Sleep(longestJob)
		if j := find(t, r, many); j.State != Failed || j.Ended.Sub(j.Started) > longestJob || !strings.Contains(strings.Join(j.Errors, "|"), errTooLong.Error()) {
			t.Errorf("%+v", j)
		}
	})
}

// Each job counts in one state, and once in the end.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		registry := prometheus.NewPedanticRegistry()
		opts := open(gate)
		opts.Metrics = NewMetrics(registry)
		r := New(opts)
		defer r.Close()
		expect := func(step string, waiting, running, done, failed, cancelled int) {
			t.Helper()
			synctest.Wait()
			text := fmt.Sprintf(`# HELP weir_warm_jobs Jobs of operators that warm images, by state: waiting or running.
# TYPE weir_warm_jobs gauge
weir_warm_jobs{state="running"} %d
weir_warm_jobs{state="waiting"} %d
# HELP weir_warm_jobs_total Jobs of operators that warm images and have ended, by result: done, failed or cancelled.
# TYPE weir_warm_jobs_total counter
weir_warm_jobs_total{result="cancelled"} %d
weir_warm_jobs_total{result="done"} %d
weir_warm_jobs_total{result="failed"} %d
`, running, waiting, cancelled, done, failed)
			if err := testutil.GatherAndCompare(registry, strings.NewReader(text)); err != nil {
				t.Errorf("%s: %v", step, err)
			}
		}
		expect("at the start", 0, 0, 0, 0, 0)
		var ids []string
		for range atOnce + 2 {
			ids = append(ids, started(t, r, order(image("a/app", "v1"))))
		}
		synctest.Wait() // the places are taken
		bad := started(t, r, order(image("a/app", "gone")))
		expect("with places for two", 3, atOnce, 0, 0, 0)
		for _, j := range r.Jobs() {
			if j.State == Waiting && j.ID != bad {
				r.Cancel(j.ID)
				break
			}
		}
		expect("a waiting one is cancelled", 2, atOnce, 0, 0, 1)
		for _, j := range r.Jobs() {
			if j.State == Running && j.ID != bad {
				r.Cancel(j.ID)
				r.Cancel(j.ID)
				break
			}
		}
		close(gate)
		expect("all have ended", 0, 0, len(ids)-2, 1, 2)
	})
}
