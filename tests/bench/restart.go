package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// storedObjects is how many blobs a restarted mirror finds, each with a link.
	storedObjects = 100_000
	// restarts is how often it is restarted, for a median.
	restarts = 5
	// settling is how long the mirror counts and indexes its store behind the first answer.
	settling = 5 * time.Second
)

// restart measures the start of a mirror that has many blobs.
func restart(ctx context.Context, m *mirror, _ *upstream) ([]row, error) {
	if err := fillStore(filepath.Join(filepath.Dir(m.config), "data")); err != nil {
		return nil, err
	}
	var ready []time.Duration
	var processor []float64
	var memory []int64
	for range restarts {
		m.stop()
		began := time.Now()
		if err := m.start(ctx); err != nil {
			return nil, err
		}
		answer, err := http.Get("http://" + m.addr + "/readyz")
		if err != nil {
			return nil, err
		}
		ready = append(ready, time.Since(began))
		if err := answer.Body.Close(); err != nil {
			return nil, err
		}
		time.Sleep(settling)
		processor = append(processor, m.cpu().total())
		peak, _ := m.daemon().memory()
		memory = append(memory, peak>>20)
	}
	slices.Sort(ready)
	slices.Sort(processor)
	slices.Sort(memory)
	return []row{
		{fmt.Sprintf("restart with %d stored objects and as many links: ready after", storedObjects), ready[restarts/2].Round(time.Millisecond).String()},
		{"processor time until all is counted", fmt.Sprintf("%.2f s", processor[restarts/2])},
		{"peak of resident memory", fmt.Sprintf("%d MiB", memory[restarts/2])},
	}, nil
}

// fillStore makes blobs of one byte, in 200 repositories, as a mirror would have left
// them.
func fillStore(data string) error {
	for i := range storedObjects {
		sum := sha256.Sum256(fmt.Append(nil, i))
		name := hex.EncodeToString(sum[:])
		link := fmt.Sprintf(`{"mediaType":"","digest":"sha256:%s","size":1,"proven":"2026-01-01T00:00:00Z"}`, name)
		for path, content := range map[string]string{
			filepath.Join(data, "blobs", "sha256", name[:2], name):                                         "1",
			filepath.Join(data, "records", "bench", fmt.Sprintf("app%d", i%200), "_links", "sha256", name): link,
		} {
			if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
