package warm_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

var all = warm.Options{Referrers: true, Jobs: 3}

// wantAsked fails the test unless exactly these objects were asked for, each once.
func (f *fake) wantAsked(want ...any) {
	f.t.Helper()
	var texts []string
	for _, w := range want {
		if desc, ok := w.(ocispec.Descriptor); ok {
			w = desc.Digest
		}
		texts = append(texts, fmt.Sprint(w))
	}
	got := slices.DeleteFunc(slices.Clone(f.asked), func(s string) bool { return strings.HasPrefix(s, "referrers ") })
	slices.Sort(got)
	slices.Sort(texts)
	if diff := cmp.Diff(texts, got); diff != "" {
		f.t.Errorf("asked for: %s", diff)
	}
}

// wantFailed fails the test unless there are exactly these failures, in any order.
func wantFailed(t *testing.T, result warm.Result, want ...string) {
	t.Helper()
	var got []string
	for _, err := range result.Failed {
		got = append(got, err.Error())
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failures: %s", diff)
	}
}

func TestImage(t *testing.T) {
	f := newFake(t)
	shared, one, two := f.blob("shared layer"), f.blob("layer one"), f.blob("layer two")
	amd64, arm64 := f.image("amd64", shared, one, one), f.image("arm64", shared, two)
	index := f.index(on(amd64, "linux", "amd64", ""), on(arm64, "linux", "arm64", "v8"), amd64)
	f.tag("v1", index)
	f.cached[arm64.Digest.String()], f.cached[two.Digest.String()] = true, true

	var steps []warm.Progress
	opts := all
	opts.Progress = func(p warm.Progress) { steps = append(steps, p) }
	result := warm.Image(t.Context(), f, oci.ByTag("v1"), opts)
	wantFailed(t, result)
	f.wantAsked("v1", amd64, arm64, shared, one, two, digest.FromString("config of amd64"), digest.FromString("config of arm64"))
	bytes := index.Size + amd64.Size + arm64.Size + shared.Size + one.Size + two.Size + int64(len("config of amd64")+len("config of arm64"))
	there := warm.Amount{Objects: 2, Bytes: arm64.Size + two.Size}
	want := warm.Result{Digest: index.Digest, New: warm.Amount{Objects: 6, Bytes: bytes - there.Bytes}, There: there}
	if diff := cmp.Diff(want, result); diff != "" {
		t.Errorf("result: %s", diff)
	}
	if last := steps[len(steps)-1]; last.Done != last.Total || last.Total != want.New.Plus(want.There) {
		t.Errorf("in the end the progress is %+v", last)
	}
	for i, step := range steps {
		if step.Done.Bytes > step.Total.Bytes || step.Done.Objects > step.Total.Objects ||
			i > 0 && (step.Done.Bytes < steps[i-1].Done.Bytes || step.Total.Bytes < steps[i-1].Total.Bytes) {
			t.Errorf("step %d of the progress is %+v", i, step)
		}
	}
	if f.likely[one.Digest] || !f.likely[two.Digest] {
		t.Errorf("expected to be there: %v", f.likely)
	}
}

func TestReferrers(t *testing.T) {
	f := newFake(t)
	image := f.image("image")
	index := f.index(image)
	sbom := f.refer(image, "sbom")
	signature := f.refer(sbom, "signature of the sbom")
	f.refer(signature, "too far")
	f.referrers[index.Digest] = []ocispec.Descriptor{sbom} // a second way to it
	f.tag("v1", index)
	result := warm.Image(t.Context(), f, oci.ByTag("v1"), all)
	wantFailed(t, result)
	f.wantAsked("v1", image, digest.FromString("config of image"),
		sbom, digest.FromString("config of sbom"), digest.FromString("content of sbom"),
		signature, digest.FromString("config of signature of the sbom"), digest.FromString("content of signature of the sbom"))

	f.asked = nil
	warm.Image(t.Context(), f, oci.ByTag("v1"), warm.Options{})
	f.wantAsked("v1", image, digest.FromString("config of image"))
	if slices.ContainsFunc(f.asked, func(s string) bool { return strings.HasPrefix(s, "referrers") }) {
		t.Errorf("asked %q", f.asked)
	}

	f.failures["referrers "+image.Digest.String()] = errors.New("500: oops")
	result = warm.Image(t.Context(), f, oci.ByTag("v1"), all)
	wantFailed(t, result, "referrers of "+image.Digest.String()+": 500: oops")
}

func TestPlatforms(t *testing.T) {
	f := newFake(t)
	images := map[string]ocispec.Descriptor{}
	for _, p := range []string{"linux/amd64", "linux/amd64/v3", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/arm64/v8", "windows/amd64"} {
		parts := append(strings.Split(p, "/"), "")
		images[p] = on(f.image(p), parts[0], parts[1], parts[2])
	}
	attestation := on(f.image("attestation"), "unknown", "unknown", "")
	plain := f.image("plain")
	var list []ocispec.Descriptor
	for _, desc := range images {
		list = append(list, desc)
	}
	f.tag("v1", f.index(append(list, attestation, plain)...))
	for wanted, want := range map[string][]string{
		"linux/amd64":              {"linux/amd64", "linux/amd64/v3"},
		"linux/amd64/v1":           {"linux/amd64"},
		"linux/arm64":              {"linux/arm64", "linux/arm64/v8"},
		"linux/arm64/v8":           {"linux/arm64", "linux/arm64/v8"},
		"linux/arm/v7":             {"linux/arm/v7"},
		"linux/arm":                {"linux/arm/v6", "linux/arm/v7"},
		"windows/amd64 linux/arm":  {"windows/amd64", "linux/arm/v6", "linux/arm/v7"},
		"linux/s390x linux/arm/v6": {"linux/arm/v6"},
	} {
		f.asked = nil
		opts := warm.Options{}
		for text := range strings.FieldsSeq(wanted) {
			parts := append(strings.Split(text, "/"), "")
			opts.Platforms = append(opts.Platforms, ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]})
		}
		wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("v1"), opts))
		asked := []any{"v1", attestation, plain, digest.FromString("config of attestation"), digest.FromString("config of plain")}
		for _, p := range want {
			asked = append(asked, images[p], digest.FromString("config of "+p))
		}
		f.wantAsked(asked...)
	}

	none := warm.Options{Platforms: []ocispec.Platform{{OS: "linux", Architecture: "s390x"}, {OS: "linux", Architecture: "arm", Variant: "v5"}}}
	wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("v1"), none),
		"v1 has none of the requested platforms (linux/arm/v5, linux/s390x), only linux/amd64, linux/amd64/v3, linux/arm/v6, linux/arm/v7, linux/arm64, linux/arm64/v8, windows/amd64")
	// An image that is not one of several says nothing of its platform.
	wantFailed(t, warm.Image(t.Context(), f, oci.ByDigest(plain.Digest), none))
}

// Registries do not have non-distributable layers.
// A failure does not keep other content from coming.
func TestFailures(t *testing.T) {
	f := newFake(t)
	lost, kept := f.blob("lost"), f.blob("kept")
	broken, sound := f.image("broken"), f.image("sound", lost, kept)
	f.tag("v1", f.index(broken, sound))
	f.failures[broken.Digest.String()] = errors.New("403: denied")
	f.failures[lost.Digest.String()] = errors.New("502: broken off")
	result := warm.Image(t.Context(), f, oci.ByTag("v1"), all)
	wantFailed(t, result, "manifest "+broken.Digest.String()+": 403: denied", "blob "+lost.Digest.String()+": 502: broken off")
	f.wantAsked("v1", broken, sound, lost, kept, digest.FromString("config of sound"))
	if result.New.Objects != 4 {
		t.Errorf("brought %+v", result.New)
	}
	if got := result.Err().Error(); strings.Count(got, "; ") != 1 || strings.Contains(got, "\n") {
		t.Errorf("%q", got)
	}

	wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("v2"), all), "manifest v2: 404: no such content")

	f.failures = nil
	f.stale = "upstream is down"
	result = warm.Image(t.Context(), f, oci.ByDigest(sound.Digest), all)
	wantFailed(t, result, "manifest "+sound.Digest.String()+": upstream is down")
	if result.New.Objects != 4 {
		t.Errorf("brought %+v", result.New)
	}
}

// An image is given up after too many failures.
func TestGivenUp(t *testing.T) {
	f := newFake(t)
	var layers []ocispec.Descriptor
	for i := range 100 {
		layers = append(layers, f.blob(fmt.Sprint("layer ", i)))
		f.failures[layers[i].Digest.String()] = errors.New("429: later")
	}
	f.tag("v1", f.image("image", layers...))
	result := warm.Image(t.Context(), f, oci.ByTag("v1"), warm.Options{Jobs: 1})
	if n := len(result.Failed); n != 11 || result.Failed[10].Error() != "stopped after too many failures" || len(f.asked) != 12 {
		t.Errorf("%d failures, asked %d times: %v", n, len(f.asked), result.Failed)
	}
}

func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		var layers []ocispec.Descriptor
		for i := range 10 {
			layers = append(layers, f.blob(fmt.Sprint("layer ", i)))
		}
		f.tag("v1", f.image("image", layers...))
		f.gate = make(chan struct{})
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan warm.Result)
		go func() { done <- warm.Image(ctx, f, oci.ByTag("v1"), warm.Options{Jobs: 3}) }()
		synctest.Wait()
		if f.running != 3 {
			t.Errorf("%d blobs at once", f.running)
		}
		cancel(errors.New("the operator has had enough"))
		result := <-done
		wantFailed(t, result, "the operator has had enough")
		if result.New.Objects != 1 || len(f.asked) > 5 {
			t.Errorf("brought %+v, asked for %d", result.New, len(f.asked))
		}

		f.asked, f.atOnce = nil, 0
		close(f.gate)
		wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("v1"), warm.Options{Jobs: 3}))
		if f.atOnce > 3 || len(f.asked) != 12 {
			t.Errorf("%d at once, asked for %d", f.atOnce, len(f.asked))
		}
	})
}
