package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image writes an index with an image for each Linux, as a layout in a tar file: what skopeo calls
// oci-archive. The images are those of the Dockerfile.
func (r *release) image() error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range r.linux() {
		img, err := r.imageFor(b)
		if err != nil {
			return err
		}
		platform := &v1.Platform{OS: b.system, Architecture: b.arch}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}})
	}
	index = mutate.Annotations(index, r.annotations()).(v1.ImageIndex)
	dir := filepath.Join(r.work, "image")
	written, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	// A tag has no plus sign, which a version may have.
	tag := map[string]string{"org.opencontainers.image.ref.name": strings.ReplaceAll(r.number(), "+", "_")}
	if err := written.AppendIndex(index, layout.WithAnnotations(tag)); err != nil {
		return err
	}
	entries, err := entriesBelow(dir)
	if err != nil {
		return err
	}
	return r.writeFile("weir_"+r.number()+"_image.tar", func(w io.Writer) error { return writeTar(w, entries, r.time) })
}

// annotations are those of the specification of images.
func (r *release) annotations() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":         "Weir",
		"org.opencontainers.image.description":   description,
		"org.opencontainers.image.url":           homepage,
		"org.opencontainers.image.source":        homepage,
		"org.opencontainers.image.documentation": homepage + "/blob/" + r.version + "/README.md",
		"org.opencontainers.image.licenses":      "Apache-2.0",
		"org.opencontainers.image.vendor":        "Weir",
		"org.opencontainers.image.version":       r.number(),
		"org.opencontainers.image.revision":      r.revision,
		"org.opencontainers.image.created":       r.time.UTC().Format(time.RFC3339),
	}
}

// user is that of the image, who owns the data directory.
const user = 65532

// imageFor returns the image for one platform: a layer that changes seldom, and one with the program.
func (r *release) imageFor(b binary) (v1.Image, error) {
	config, err := os.ReadFile(filepath.Join(r.source, "contrib/docker/config.toml"))
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(b.path)
	if err != nil {
		return nil, err
	}
	base, err := r.layer(
		file{name: "etc/weir/config.toml", content: config, mode: 0o644},
		file{name: "var/lib/weir/", mode: 0o755, owner: user},
	)
	if err != nil {
		return nil, err
	}
	top, err := r.layer(file{name: "weir", content: program, mode: 0o755})
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	history := v1.History{CreatedBy: "weir release", Created: v1.Time{Time: r.time}}
	img, err = mutate.Append(img, mutate.Addendum{Layer: base, History: history}, mutate.Addendum{Layer: top, History: history})
	if err != nil {
		return nil, err
	}
	settings, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	settings = settings.DeepCopy()
	settings.OS, settings.Architecture, settings.Created = b.system, b.arch, v1.Time{Time: r.time}
	settings.Config = v1.Config{
		User: "65532:65532", Entrypoint: []string{"/weir"}, Cmd: []string{"serve"}, Labels: r.annotations(),
		Volumes: map[string]struct{}{"/var/lib/weir": {}}, ExposedPorts: map[string]struct{}{"8000/tcp": {}},
		// No part of the specification, but engines that know health checks read it.
		Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "/weir", "healthcheck"}, Interval: 30 * time.Second, Timeout: 6 * time.Second, StartPeriod: 5 * time.Second},
	}
	if img, err = mutate.ConfigFile(img, settings); err != nil {
		return nil, err
	}
	return mutate.Annotations(img, r.annotations()).(v1.Image), nil
}

// file is a file of a layer, or a directory if its name ends in a slash.
type file struct {
	name    string
	content []byte
	mode    fs.FileMode
	owner   int
}

// layer returns a compressed layer with files and the directories above them.
func (r *release) layer(all ...file) (v1.Layer, error) {
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	made := make(map[string]bool)
	write := func(f file) error {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: int64(f.mode), Uid: f.owner, Gid: f.owner, Size: int64(len(f.content)), ModTime: r.time, Format: tar.FormatUSTAR}
		if strings.HasSuffix(f.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		err := archive.WriteHeader(header)
		if err == nil {
			_, err = archive.Write(f.content)
		}
		return err
	}
	for _, f := range all {
		for i, c := range f.name {
			if dir := f.name[:i+1]; c == '/' && dir != f.name && !made[dir] {
				made[dir] = true
				if err := write(file{name: dir, mode: 0o755}); err != nil {
					return nil, err
				}
			}
		}
		if err := write(f); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// entriesBelow returns the files of a directory, in the order of their names.
func entriesBelow(dir string) ([]entry, error) {
	var all []entry
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		all = append(all, entry{name: filepath.ToSlash(name), from: path, mode: 0o644})
		return err
	})
	if err == nil && len(all) == 0 {
		err = errors.New(dir + " has no files")
	}
	return all, err
}
