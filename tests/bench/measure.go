package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/tests/load"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	warmPulls       = 8 // of the large blob
	manifestClients = 16
	manifestTime    = 10 * time.Second
	coldDownloads   = 64
	coldSize        = 100 * mib
	warmStreams     = 8
	herdClients     = 32
	herdLayers      = 8 // of herdSize
	herdSize        = 16 * mib
)

// coldBlob pulls 1 GiB that the mirror does not have.
func coldBlob(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	before, start := m.cpu(), time.Now()
	if err := m.pull(ctx, up.add(gib)); err != nil {
		return nil, err
	}
	took := time.Since(start)
	return []row{
		{"cold 1 GiB blob, one client: throughput", fmt.Sprintf("%.0f MiB/s", 1024/took.Seconds())},
		{"cold 1 GiB blob: CPU of the mirror", m.cpu().since(before, 1)},
	}, nil
}

// warmBlob pulls 1 GiB that the mirror has, several times in a row and then at once.
func warmBlob(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	path := up.add(gib)
	if err := m.pull(ctx, path); err != nil {
		return nil, err
	}
	before, start := m.cpu(), time.Now()
	for range warmPulls {
		if err := m.pull(ctx, path); err != nil {
			return nil, err
		}
	}
	took := time.Since(start)
	rows := []row{
		{"warm 1 GiB blob, one client: throughput", fmt.Sprintf("%.0f MiB/s", warmPulls*1024/took.Seconds())},
		{"warm 1 GiB blob: CPU of the mirror per GiB", m.cpu().since(before, warmPulls)},
	}
	// A new process, so that its peak is that of stored content.
	if err := m.restart(ctx); err != nil {
		return nil, err
	}
	before = m.cpu()
	if err := m.pullAtOnce(ctx, warmStreams, []string{path}); err != nil {
		return nil, err
	}
	return append(rows,
		row{"warm 1 GiB blob, 8 streams at once: CPU of the mirror per GiB", m.cpu().since(before, warmStreams)},
		row{"warm 1 GiB blob, 8 streams: peak resident memory of the mirror", m.peak()},
	), nil
}

// pullAtOnce has clients that each pull all paths, one after the other.
func (m *mirror) pullAtOnce(ctx context.Context, n int, paths []string) error {
	var clients errgroup.Group
	for range n {
		clients.Go(func() error {
			for _, path := range paths {
				if err := m.pull(ctx, path); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return clients.Wait()
}

// peak describes the peak of the mirror's resident memory.
func (m *mirror) peak() string {
	peak, program := m.daemon().memory()
	return fmt.Sprintf("%d MiB, with %d MiB of the program", peak/mib, program/mib)
}

// herd has many clients pull the layers of one image that the mirror does not have.
func herd(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	var paths []string
	for range herdLayers {
		paths = append(paths, up.add(herdSize))
	}
	if err := m.restart(ctx); err != nil {
		return nil, err
	}
	asked, before := up.requests.Load(), m.cpu()
	if err := m.pullAtOnce(ctx, herdClients, paths); err != nil {
		return nil, err
	}
	if n := up.requests.Load() - asked; n != herdLayers {
		return nil, fmt.Errorf("%d layers caused %d upstream requests", herdLayers, n)
	}
	return []row{
		{"32 clients, one cold image of 128 MiB: CPU of the mirror", m.cpu().since(before, 1)},
		{"32 clients, one cold image: peak resident memory of the mirror", m.peak()},
	}, nil
}

// warmManifests asks for one manifest by digest as fast as it comes, on
// connections that stay open.
func warmManifests(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	path := up.addManifest()
	if err := m.pull(ctx, path); err != nil {
		return nil, err
	}
	asked := up.requests.Load()
	rows, err := m.hammered(ctx, path, "warm manifest by digest", "warm manifest")
	if err != nil {
		return nil, err
	}
	if n := up.requests.Load() - asked; n != 0 {
		return nil, fmt.Errorf("warm manifests caused %d upstream requests", n)
	}
	return rows, nil
}

// hammered asks for a path as fast as the answers come, on connections that stay open. The two
// names are those of the rows.
func (m *mirror) hammered(ctx context.Context, path, rateOf, costOf string) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	before, start := m.cpu(), time.Now()
	var answers atomic.Int64
	var clients errgroup.Group
	for range manifestClients {
		clients.Go(func() error {
			return load.Request(ctx, m.addr, path, "", func() bool { answers.Add(1); return true })
		})
	}
	if err := clients.Wait(); err != nil {
		return nil, err
	}
	rate := float64(answers.Load()) / time.Since(start).Seconds()
	return []row{
		{fmt.Sprintf("%s, %d connections", rateOf, manifestClients), fmt.Sprintf("%.0f requests/s", rate)},
		{costOf + ": CPU of the mirror per 1,000 requests", m.cpu().since(before, float64(answers.Load())/1000)},
	}, nil
}

// manyColdBlobs pulls many blobs that the mirror does not have at once.
func manyColdBlobs(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	var paths []string
	for range coldDownloads {
		paths = append(paths, up.add(coldSize))
	}
	// A new process, so that its peak is that of this load alone.
	if err := m.restart(ctx); err != nil {
		return nil, err
	}
	before, start := m.cpu(), time.Now()
	var clients errgroup.Group
	for _, path := range paths {
		clients.Go(func() error { return m.pull(ctx, path) })
	}
	if err := clients.Wait(); err != nil {
		return nil, err
	}
	took := time.Since(start)
	total := float64(coldDownloads*coldSize) / mib
	return []row{
		{"64 cold blobs of 100 MiB at once: throughput", fmt.Sprintf("%.0f MiB/s", total/took.Seconds())},
		{"64 cold blobs: peak resident memory of the mirror", m.peak()},
		{"64 cold blobs: CPU of the mirror per GiB", m.cpu().since(before, total/1024)},
	}, nil
}

// pull requests a path of the mirror and reads the answer to its end.
func (m *mirror) pull(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	return load.ReadAll(resp, 0)
}
