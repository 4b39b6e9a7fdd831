package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// rangedSize is the size of a blob of which a client asks for a quarter first.
	rangedSize = 256 * mib
	// parallelChunk is how much each of the parallel requests of containerd reads.
	parallelChunk = 32 * mib
)

// rangeThenWhole measures how many bytes come from upstream, for each byte of a cold blob, if
// clients ask for ranges of it first.
func rangeThenWhole(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	var rows []row
	for _, how := range []struct {
		label  string
		ranges func(path string) error
	}{
		{"a quarter of a cold blob, then the whole: bytes from upstream", func(path string) error {
			return m.pullRange(ctx, path, rangedSize/2, rangedSize/2+rangedSize/4, rangedSize/4)
		}},
		{"a cold blob in open-ended ranges, each closed after 32 MiB, then the whole: bytes from upstream", func(path string) error {
			for from := int64(parallelChunk); from < rangedSize; from += parallelChunk {
				if err := m.pullRange(ctx, path, from, -1, parallelChunk); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		path, before := up.add(rangedSize), up.sent.Load()
		if err := how.ranges(path); err != nil {
			return nil, err
		}
		if err := m.pull(ctx, path); err != nil {
			return nil, err
		}
		rows = append(rows, row{how.label, fmt.Sprintf("%.3f", float64(up.sent.Load()-before)/rangedSize)})
	}
	return rows, nil
}

// pullRange asks for a range, which is open-ended if end is -1, and reads n bytes of it.
func (m *mirror) pullRange(ctx context.Context, path string, start, end, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", start))
	if end >= 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", start, end-1))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.CopyN(io.Discard, resp.Body, n)
	return err
}
