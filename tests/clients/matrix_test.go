package clients

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

// A client is made ready for a mirror, by the files that weir client-config
// prints for it where it takes any, and then pulls the linux/amd64 image of a
// name such as docker.io/org/app:1.2 as often as it is told, each time from scratch. It
// fails the test unless it got the image that is wanted.
type (
	client func(*testing.T, *mirror) puller
	puller func(t *testing.T, name string, want *harness.Image)
)

// Every client pulls an index and a single image, by tag and by digest, cold and
// warm, from the default registry and from others.
func TestPulls(t *testing.T) {
	for name, start := range map[string]client{
		"docker":       docker,
		"containerd":   containerd,
		"podman":       podman,
		"buildah":      buildah,
		"buildkit":     buildkit,
		"skopeo":       skopeo,
		"skopeo-named": skopeoNamed,
		"regctl":       regctl,
		"regctl-named": regctlNamed,
		"crane":        crane,
		"oras":         oras,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMirror(t)
			pull := start(t, m)
			for _, repository := range []string{
				"docker.io/org/index-by-tag", "docker.io/org/index-by-digest", "docker.io/org/single-by-tag", "docker.io/org/single-by-digest",
				"ghcr.io/org/index-by-tag", "ghcr.io/org/single-by-digest",
				"quay.io/org/index-by-digest", "quay.io/org/single-by-tag",
			} {
				t.Run(repository, func(t *testing.T) { m.pullsOf(t, repository, pull) })
			}
		})
	}
}

// pullsOf pushes a new image to a repository and pulls it. The name of the
// repository says which shape the image has and whether it is pulled by tag or
// by digest.
func (m *mirror) pullsOf(t *testing.T, repository string, pull puller) {
	t.Helper()
	const tag = "1.2"
	image := harness.NewImage(t, 500_000, 10_000, 10)
	manifests, document := 1, image.Manifest
	if strings.Contains(repository, "/index-") {
		manifests = 2
		document = m.push().PushIndex(t, repository, tag, map[string]*harness.Image{"amd64": image, "arm64": harness.NewImage(t, 1000)})
	} else {
		m.push().PushImage(t, repository, tag, image)
	}
	name, moving := repository+":"+tag, tag
	if strings.HasSuffix(repository, "-by-digest") {
		name, moving = repository+"@"+harness.DescriptorOf("", document).Digest.String(), ""
	}
	m.coldThenWarm(t, repository, moving, manifests, 1+len(image.Layers), func() { pull(t, name, image) })
}

// expectLayout fails the test unless an OCI image layout holds an image.
func expectLayout(t *testing.T, dir string, want *harness.Image) {
	t.Helper()
	for _, content := range append([][]byte{want.Manifest, want.Config}, want.Layers...) {
		dgst := harness.DescriptorOf("", content).Digest
		got, err := os.ReadFile(filepath.Join(dir, "blobs", dgst.Algorithm().String(), dgst.Encoded()))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s came with %d bytes, want %d: %v", dgst, len(got), len(content), err)
		}
	}
}
