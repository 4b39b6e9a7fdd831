package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// entry is a file of an archive. It has either a path on this machine or a content.
type entry struct {
	name    string
	from    string
	content []byte
	mode    fs.FileMode
}

func (e entry) read() ([]byte, error) {
	if e.from == "" {
		return e.content, nil
	}
	return os.ReadFile(e.from)
}

// archives writes an archive for each platform.
func (r *release) archives() error {
	for _, b := range r.binaries {
		name := "weir_" + r.number() + "_" + b.system + "_" + b.arch
		entries, err := r.contentsFor(b, name)
		if err != nil {
			return err
		}
		if b.system == "windows" {
			err = r.writeFile(name+".zip", func(w io.Writer) error { return writeZip(w, entries, r.time) })
		} else {
			err = r.writeFile(name+".tar.gz", func(w io.Writer) error { return writeTarGz(w, entries, r.time) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// contentsFor returns the files of the archive for a platform, in a directory of their own.
func (r *release) contentsFor(b binary, dir string) ([]entry, error) {
	entries := []entry{{name: path.Join(dir, filepath.Base(b.path)), from: b.path, mode: 0o755}}
	for _, file := range []string{"LICENSE", "README.md", "CHANGELOG.md"} {
		entries = append(entries, entry{name: path.Join(dir, file), from: filepath.Join(r.source, file), mode: 0o644})
	}
	if b.system == "linux" {
		for _, file := range []string{"config.example.toml", "contrib/systemd/weir.service", "contrib/systemd/weir.sysusers"} {
			entries = append(entries, entry{name: path.Join(dir, path.Base(file)), from: filepath.Join(r.source, file), mode: 0o644})
		}
	}
	for to, from := range map[string]string{"man": stageMan, "completions": stageCompletion} {
		files, err := filepath.Glob(filepath.Join(r.work, from, "*"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			entries = append(entries, entry{name: path.Join(dir, to, filepath.Base(file)), from: file, mode: 0o644})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

// writeFile writes a file of the release.
func (r *release) writeFile(name string, write func(io.Writer) error) error {
	file, err := os.Create(filepath.Join(r.out, name))
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

func writeTarGz(w io.Writer, entries []entry, at time.Time) error {
	compressed, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	return errors.Join(writeTar(compressed, entries, at), compressed.Close())
}

// writeTar writes entries with one time and one owner.
func writeTar(w io.Writer, entries []entry, at time.Time) error {
	archive := tar.NewWriter(w)
	for _, e := range entries {
		content, err := e.read()
		if err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: int64(e.mode.Perm()), Size: int64(len(content)), ModTime: at, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}

func writeZip(w io.Writer, entries []entry, at time.Time) error {
	archive := zip.NewWriter(w)
	for _, e := range entries {
		content, err := e.read()
		if err != nil {
			return err
		}
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: at}
		header.SetMode(e.mode)
		file, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := file.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}
