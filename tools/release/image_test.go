package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// The index has an image for each Linux, with the files, the owner and the version that a user needs,
// and the same digest each time.
func TestImageForEachProcessor(t *testing.T) {
	r := &release{source: "../..", version: "v1.2.3", revision: "796bc3b", time: time.Unix(1e9, 0)}
	for _, b := range []binary{{"linux", "amd64", ""}, {"linux", "arm64", ""}, {"windows", "amd64", ""}} {
		b.path = filepath.Join(t.TempDir(), "weir")
		if err := os.WriteFile(b.path, []byte("for "+b.arch), 0o755); err != nil {
			t.Fatal(err)
		}
		r.binaries = append(r.binaries, b)
	}
	archive := func() []byte {
		r.out, r.work = t.TempDir(), t.TempDir()
		if err := r.image(); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(r.out, "weir_1.2.3_image.tar"))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	if !bytes.Equal(archive(), archive()) {
		t.Error("two images of the same binaries differ")
	}
	outer, err := layout.ImageIndexFromPath(filepath.Join(r.work, "image"))
	if err != nil {
		t.Fatal(err)
	}
	top, err := outer.IndexManifest()
	if err != nil || len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1.2.3" {
		t.Fatalf("%v %+v", err, top)
	}
	index, err := outer.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil || len(list.Manifests) != 2 || list.Annotations["org.opencontainers.image.version"] != "1.2.3" {
		t.Fatalf("%v %+v", err, list)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		if p := list.Manifests[i].Platform; p.OS != "linux" || p.Architecture != arch {
			t.Errorf("manifest %d is for %s", i, p)
		}
		img, err := index.Image(list.Manifests[i].Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkFiles(t, img, "for "+arch)
	}
}

// checkFiles checks the files of an image with a program.
func checkFiles(t *testing.T, img v1.Image, program string) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil || config.Config.User != "65532:65532" || config.Config.Healthcheck == nil {
		t.Fatalf("%v %+v", err, config)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	owners := make(map[string]int)
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for files := tar.NewReader(content); ; {
			header, err := files.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			owners[header.Name] = header.Uid
			if header.Name == "weir" {
				if text, err := io.ReadAll(files); err != nil || string(text) != program || header.Mode != 0o755 {
					t.Errorf("the program is %q, mode %o: %v", text, header.Mode, err)
				}
			}
		}
	}
	for name, owner := range map[string]int{"weir": 0, "etc/weir/config.toml": 0, "var/lib/": 0, "var/lib/weir/": user} {
		if got, ok := owners[name]; !ok || got != owner {
			t.Errorf("%s belongs to %d (%v), want %d", name, got, ok, owner)
		}
	}
}
