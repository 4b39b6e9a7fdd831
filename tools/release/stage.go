package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Paths of the stage, below the work directory.
const (
	stageMan        = "stage/man"
	stageManGz      = "stage/man-gz" // as packages have them
	stageUnit       = "stage/weir.service"
	stageCompletion = "stage/completions"
)

// completions are the shells and the names of their files, of which each shell has its own rule.
var completions = []struct{ shell, file string }{
	{"bash", "weir"}, {"zsh", "_weir"}, {"fish", "weir.fish"}, {"powershell", "weir.ps1"},
}

// stage writes the manual pages, the completions and the unit as packages have it.
func (r *release) stage() error {
	for _, dir := range []string{stageMan, stageManGz, stageCompletion} {
		if err := os.MkdirAll(filepath.Join(r.work, dir), 0o755); err != nil {
			return err
		}
	}
	if _, err := r.output("man", stageMan); err != nil {
		return err
	}
	if err := r.compressPages(); err != nil {
		return err
	}
	for _, c := range completions {
		script, err := r.output("completion", c.shell)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.work, stageCompletion, c.file), script, 0o644); err != nil {
			return err
		}
	}
	unit, err := os.ReadFile(filepath.Join(r.source, "contrib/systemd/weir.service"))
	if err != nil {
		return err
	}
	// What a package installs is not below /usr/local.
	packaged, err := replace(string(unit), "ExecStart=/usr/local/bin/weir ", "ExecStart=/usr/bin/weir ")
	if err != nil {
		return fmt.Errorf("weir.service: %w", err)
	}
	return os.WriteFile(filepath.Join(r.work, stageUnit), []byte(packaged), 0o644)
}

func (r *release) compressPages() error {
	pages, err := filepath.Glob(filepath.Join(r.work, stageMan, "*"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		var compressed bytes.Buffer
		w, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.work, stageManGz, filepath.Base(page)+".gz"), compressed.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// replace replaces a text that must be there once.
func replace(in, text, by string) (string, error) {
	if n := strings.Count(in, text); n != 1 {
		return "", fmt.Errorf("%q is there %d times, want once", text, n)
	}
	return strings.Replace(in, text, by, 1), nil
}
