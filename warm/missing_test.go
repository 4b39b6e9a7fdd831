package warm_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

// An index of which the registry lacks some manifests is warm without them, and a note
// says so once.
func TestMissingManifests(t *testing.T) {
	const names = "the registry lacks %d manifests that an index names: %s"
	arm, s390x := absent("arm"), absent("s390x")
	for name, c := range map[string]struct {
		index     func(f *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor
		platforms []ocispec.Platform
		notes     []string
		failed    []string
	}{
		"one platform": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{amd64, on(arm, "linux", "arm", "v7")}
		}, notes: []string{"the registry lacks 1 manifest that an index names: linux/arm/v7"}},
		"two platforms": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{on(s390x, "linux", "s390x", ""), amd64, on(arm, "linux", "arm", "")}
		}, notes: []string{fmt.Sprintf(names, 2, "linux/arm, linux/s390x")}},
		"without a platform": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{amd64, arm}
		}, notes: []string{"the registry lacks 1 manifest that an index names: " + arm.Digest.String()}},
		"an attestation": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{amd64, on(arm, "unknown", "unknown", "")}
		}, notes: []string{"the registry lacks 1 manifest that an index names: " + arm.Digest.String()}},
		"a platform with control characters": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{amd64, on(arm, "\x1b[2J", "arm", "")}
		}, notes: []string{`the registry lacks 1 manifest that an index names: "\x1b[2J/arm"`}},
		"a nested index": {index: func(f *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{f.index(amd64, on(arm, "linux", "arm", "")), s390x}
		}, notes: []string{fmt.Sprintf(names, 2, "linux/arm, "+s390x.Digest.String())}},
		"more than are failures": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			list := []ocispec.Descriptor{amd64}
			for i := range 25 {
				list = append(list, on(absent(fmt.Sprint(i)), "linux", fmt.Sprintf("a%02d", i), ""))
			}
			return list
		}, notes: []string{fmt.Sprintf(names, 25, "linux/a00, linux/a01, linux/a02, linux/a03, linux/a04, linux/a05, linux/a06, linux/a07, linux/a08, "+
			"linux/a09, linux/a10, linux/a11, linux/a12, linux/a13, linux/a14, linux/a15, linux/a16, linux/a17, linux/a18, linux/a19, and others")}},
		"one that is not wanted": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{amd64, on(arm, "linux", "arm", "")}
		}, platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}},
		"the one that is wanted": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{amd64, on(arm, "linux", "arm", "")}
		}, platforms: []ocispec.Platform{{OS: "linux", Architecture: "arm"}}, failed: []string{"the registry lacks all manifests that v1 names: linux/arm"}},
		"all": {index: func(*fake, ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{on(s390x, "linux", "s390x", ""), on(arm, "linux", "arm", "")}
		}, failed: []string{"the registry lacks all manifests that v1 names: linux/arm, linux/s390x"}},
		"all but an attestation": {index: func(_ *fake, amd64 ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{on(amd64, "unknown", "unknown", ""), on(arm, "linux", "arm", "")}
		}, failed: []string{"the registry lacks all manifests that v1 names: linux/arm"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			amd64 := on(f.image("amd64", f.blob("layer")), "linux", "amd64", "")
			f.tag("v1", f.index(c.index(f, amd64)...))
			opts := all
			opts.Platforms = c.platforms
			var last warm.Progress
			opts.Progress = func(p warm.Progress) { last = p }
			result := warm.Image(t.Context(), f, oci.ByTag("v1"), opts)
			wantFailed(t, result, c.failed...)
			if diff := cmp.Diff(c.notes, result.Notes); diff != "" {
				t.Errorf("notes: %s", diff)
			}
			if last.Done != last.Total {
				t.Errorf("in the end the progress is %+v", last)
			}
		})
	}
}

// absent is a manifest that no registry has.
func absent(name string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(name), Size: 100}
}

// Only the registry's word makes content missing, and only content that the image can do
// without.
func TestMissingOrFailed(t *testing.T) {
	f := newFake(t)
	image, broken, lost := f.image("image"), f.image("broken"), f.image("lost", f.blob("lost layer"))
	delete(f.blobs, digest.FromString("lost layer"))
	f.failures[broken.Digest.String()] = errors.New("502: bad gateway")
	f.referrers[image.Digest] = []ocispec.Descriptor{absent("signature")}
	f.tag("v1", f.index(image, broken, lost, absent("child")))
	result := warm.Image(t.Context(), f, oci.ByTag("v1"), all)
	wantFailed(t, result, "manifest "+broken.Digest.String()+": 502: bad gateway", "blob "+digest.FromString("lost layer").String()+": 404: no such content")
	want := []string{"the registry lacks 1 manifest that an index names: " + digest.FromString("child").String(),
		"the registry lacks 1 referrer that is listed: " + digest.FromString("signature").String()}
	if diff := cmp.Diff(want, result.Notes); diff != "" {
		t.Errorf("notes: %s", diff)
	}
	wantFailed(t, warm.Image(t.Context(), f, oci.ByTag("v2"), all), "manifest v2: 404: no such content")
}

// A layer that has addresses of its own comes if the registry has it.
func TestForeignLayers(t *testing.T) {
	for name, change := range map[string]func(*ocispec.Descriptor){
		"Docker": func(d *ocispec.Descriptor) {
			d.MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		},
		"OCI": func(d *ocispec.Descriptor) {
			d.MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
		},
		"an ordinary type": func(d *ocispec.Descriptor) { d.URLs = []string{"https://elsewhere.example/layer"} },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			kept, lost, failed, plain := f.blob("kept"), f.blob("lost"), f.blob("failed"), f.blob("plain")
			for _, layer := range []*ocispec.Descriptor{&kept, &lost, &failed} {
				change(layer)
			}
			delete(f.blobs, lost.Digest)
			f.failures[failed.Digest.String()] = errors.New("503: later")
			f.tag("v1", f.image("windows", kept, lost, failed, plain))
			var last warm.Progress
			opts := all
			opts.Progress = func(p warm.Progress) { last = p }
			result := warm.Image(t.Context(), f, oci.ByTag("v1"), opts)
			wantFailed(t, result, "blob "+failed.Digest.String()+": 503: later")
			f.wantAsked("v1", kept, lost, failed, plain, digest.FromString("config of windows"))
			if len(result.Notes) != 1 || !strings.HasPrefix(result.Notes[0], "the registry lacks 1 foreign layer,") || !strings.HasSuffix(result.Notes[0], lost.Digest.String()) {
				t.Errorf("notes %q", result.Notes)
			}
			if last.Done.Objects != 4 || last.Total.Objects != 5 || last.Total.Bytes-last.Done.Bytes != failed.Size {
				t.Errorf("in the end the progress is %+v", last)
			}
		})
	}
}
