package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// workload is a kind of load that servers are measured with. A server is started by each run.
type workload struct {
	name    string
	servers []string // a reference comes before the servers that are compared with it
	metrics []metric
	run     func(context.Context, *lab) ([]float64, error)
}

// metric is a line of the table. If per names a server, the figures are ratios to that one.
type metric struct{ label, format, per string }

var workloads = []*workload{
	{"cold", append([]string{direct}, caches...), []metric{
		{"cold image, 8 layers of 128 MiB together, upstream 20 ms away: time, direct is 1", "%.2f", direct},
		{"the same: first byte of a layer, ms", "%.0f", ""},
	}, coldImage},
	{"herd", append([]string{direct}, caches...), []metric{
		{"32 clients pull one cold image of 64 MiB, upstream 20 ms away: time, direct is 1", "%.2f", direct},
		{"the same: bytes from upstream, one image is 1", "%.3f", ""},
		{"the same: CPU s", "%.2f", ""},
		{"the same: peak memory, MiB", "%.0f", ""},
	}, herd},
	{"checked", []string{nginxFiles, goFiles, weir, registry2, registry3}, []metric{
		{"warm image of 128 MiB, tag checked upstream, 20 ms away: time, nginx files is 1", "%.2f", nginxFiles},
	}, warmImage(`tag_ttl = "0s"`)},
	{"unchecked", []string{nginxFiles, goFiles, weir, nginxCache}, []metric{
		{"warm image of 128 MiB, tag not checked: time, nginx files is 1", "%.2f", nginxFiles},
	}, warmImage(`tag_ttl = "1h"`)},
	{"blob", append([]string{goFiles, nginxFiles}, caches...), []metric{
		{"warm blob of 1 GiB, one stream: CPU s per GB", "%.3f", ""},
		{"the same, 8 streams: CPU s per GB", "%.3f", ""},
		{"the same: peak memory, MiB", "%.0f", ""},
	}, warmBlob},
	{"manifest", append([]string{nginxFiles, goMemory, goFiles}, caches...), []metric{
		{"warm manifest by digest, 16 connections: requests/s, nginx files is 1", "%.2f", nginxFiles},
		{"the same: CPU µs each", "%.0f", ""},
	}, warmManifest},
	{"tag", []string{weir, registry2, registry3}, []metric{
		{"tag checked each time, 64 connections, upstream 20 ms away: requests/s", "%.0f", ""},
		{"the same: upstream requests for 1,000", "%.1f", ""},
		{"the same: CPU µs each", "%.0f", ""},
	}, checkedTag},
	{"layers", caches, []metric{
		{"64 cold layers of 100 MiB at once: peak memory, MiB", "%.0f", ""},
		{"the same: CPU s per GB", "%.2f", ""},
	}, coldLayers},
	{"range", caches, []metric{
		{"a range of 32 MiB of a cold blob of 128 MiB, then the whole: bytes from upstream, the blob is 1", "%.2f", ""},
	}, rangeThenWhole},
	{"stale", caches, []metric{
		{"cached tag, upstream answers 503: ms", "%.1f", ""},
	}, staleTag},
	{"beside", caches, []metric{
		{"cold manifest, 20 ms away, beside a cold blob of 64 MiB that ends: ms", "%.0f", ""},
	}, manifestBeside},
	{"small", caches, []metric{
		{"2,000 cold images of 8 layers of 1 KiB, 16 clients: objects stored per second", "%.0f", ""},
		{"the same: CPU µs for each object", "%.0f", ""},
		{"the same: memory afterwards, MiB", "%.0f", ""},
	}, smallObjects},
	{"start", append([]string{goMemory}, caches...), []metric{
		{"start to the first answer, ms", "%.1f", ""},
		{"idle: memory, MiB", "%.0f", ""},
		{"program, MiB", "%.0f", ""},
	}, start},
	{"restart", []string{weir}, []metric{
		{"start with 100,000 stored objects and a limit: first answer, ms", "%.0f", ""},
		{"the same, after 5 s: memory, MiB", "%.0f", ""},
		{"the same, after 5 s: CPU s", "%.2f", ""},
	}, restart},
}

// lab is a place for one run of a workload on one kind of server.
type lab struct {
	*kind
	up  *upstream
	dir string
}

// start runs a server of the lab's kind. One that serves files gets the images.
func (l *lab) start(ctx context.Context, settings string, images ...*image) (*server, error) {
	if l.kind.start == nil {
		return &server{l.kind, nil, l.up.url}, nil
	}
	if slices.Contains([]string{goMemory, goFiles, nginxFiles}, l.kind.name) {
		if err := l.up.export(filepath.Join(l.dir, "www"), images...); err != nil {
			return nil, err
		}
	}
	p, err := l.kind.start(ctx, l.kind, l.dir, l.up.url, settings)
	if err != nil {
		return nil, err
	}
	return &server{l.kind, p, "http://" + p.addr}, nil
}

// stop ends a server, and adds a failure to err.
func (s *server) stop(err *error) {
	if s.process != nil {
		*err = errors.Join(*err, s.process.stop())
	}
}

// addLayers makes an image of 8 layers. One of them is half of it.
func (l *lab) addLayers(size int64) *image {
	sizes := []int64{size / 2}
	for range 7 {
		sizes = append(sizes, size/14)
	}
	return l.up.addImage(sizes...)
}

func coldImage(ctx context.Context, l *lab) (_ []float64, err error) {
	img := l.addLayers(128 * mib)
	s, err := l.start(ctx, "")
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	l.up.place(wan)
	begun := time.Now()
	first, err := c.pull(ctx, img)
	return []float64{time.Since(begun).Seconds(), float64(first.Sub(begun).Milliseconds())}, err
}

func herd(ctx context.Context, l *lab) (_ []float64, err error) {
	const clients = 32
	img := l.addLayers(64 * mib)
	s, err := l.start(ctx, "")
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	l.up.place(wan)
	before, begun := l.up.bytes.Load(), time.Now()
	var all errgroup.Group
	for range clients {
		all.Go(func() error {
			c := newClient(s)
			defer c.close()
			_, err := c.pull(ctx, img)
			return err
		})
	}
	err = all.Wait()
	values := []float64{time.Since(begun).Seconds(), float64(l.up.bytes.Load()-before) / float64(img.size), 0, 0}
	if s.process != nil {
		values[2], values[3] = s.cpu(), s.memory("VmHWM")
	}
	return values, err
}

// warmImage pulls an image that the server has.
func warmImage(settings string) func(context.Context, *lab) ([]float64, error) {
	const pulls = 9
	return func(ctx context.Context, l *lab) (_ []float64, err error) {
		img := l.addLayers(128 * mib)
		s, err := l.start(ctx, settings, img)
		if err != nil {
			return nil, err
		}
		defer s.stop(&err)
		c := newClient(s)
		defer c.close()
		var times []float64
		for i := range pulls + 1 {
			begun := time.Now()
			if _, err := c.pull(ctx, img); err != nil {
				return nil, err
			}
			if i == 0 { // it filled the cache
				l.up.place(wan)
				continue
			}
			times = append(times, time.Since(begun).Seconds())
		}
		slices.Sort(times)
		return []float64{times[pulls/2]}, nil
	}
}

func warmBlob(ctx context.Context, l *lab) (_ []float64, err error) {
	const pulls, streams = 4, 8
	img := l.up.addImage(gib)
	s, err := l.start(ctx, "", img)
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	path := "blobs/" + img.layers[0].String()
	if err := c.get(ctx, path, "", nil); err != nil {
		return nil, err
	}
	before := s.cpu()
	for range pulls {
		if err := c.get(ctx, path, "", nil); err != nil {
			return nil, err
		}
	}
	single := (s.cpu() - before) / (pulls * gib / 1e9)
	before = s.cpu()
	var all errgroup.Group
	for range streams {
		all.Go(func() error { return c.get(ctx, path, "", nil) })
	}
	err = all.Wait()
	return []float64{single, (s.cpu() - before) / (streams * gib / 1e9), s.memory("VmHWM")}, err
}

func warmManifest(ctx context.Context, l *lab) (_ []float64, err error) {
	const clients, long = 16, 5 * time.Second
	img := l.addLayers(14 * kib)
	s, err := l.start(ctx, "", img)
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	path := "manifests/" + img.manifest.String()
	if err := c.get(ctx, path, "", nil); err != nil {
		return nil, err
	}
	before := s.cpu()
	answers, err := c.hammer(ctx, path, clients, long)
	return []float64{float64(answers) / long.Seconds(), (s.cpu() - before) * 1e6 / float64(answers)}, err
}

func checkedTag(ctx context.Context, l *lab) (_ []float64, err error) {
	const clients, long = 64, 5 * time.Second
	img := l.addLayers(14 * kib)
	s, err := l.start(ctx, `tag_ttl = "0s"`)
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	path := "manifests/" + img.tag
	if err := c.get(ctx, path, "", nil); err != nil {
		return nil, err
	}
	l.up.place(distance{latency: wan.latency})
	before, asked := s.cpu(), l.up.requests.Load()
	answers, err := c.hammer(ctx, path, clients, long)
	return []float64{
		float64(answers) / long.Seconds(), float64(l.up.requests.Load()-asked) * 1000 / float64(answers), (s.cpu() - before) * 1e6 / float64(answers),
	}, err
}

func coldLayers(ctx context.Context, l *lab) (_ []float64, err error) {
	const layers, size = 64, 100 * mib
	s, err := l.start(ctx, "")
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	var all errgroup.Group
	for range layers {
		dgst := l.up.addBlob(size)
		all.Go(func() error { return c.get(ctx, "blobs/"+dgst.String(), "", nil) })
	}
	err = all.Wait()
	return []float64{s.memory("VmHWM"), s.cpu() / (layers * size / 1e9)}, err
}

func rangeThenWhole(ctx context.Context, l *lab) (_ []float64, err error) {
	const size = 128 * mib
	dgst := l.up.addBlob(size)
	s, err := l.start(ctx, "")
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	before := l.up.bytes.Load()
	err = errors.Join(
		c.get(ctx, "blobs/"+dgst.String(), fmt.Sprintf("%d-%d", 64*mib, 96*mib-1), nil),
		c.get(ctx, "blobs/"+dgst.String(), "", nil))
	return []float64{float64(l.up.bytes.Load()-before) / size}, err
}

func staleTag(ctx context.Context, l *lab) (_ []float64, err error) {
	const pulls = 21
	img := l.addLayers(14 * kib)
	s, err := l.start(ctx, `tag_ttl = "0s"`)
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	var times []float64
	for i := range pulls + 1 {
		begun := time.Now()
		if err := c.get(ctx, "manifests/"+img.tag, "", nil); err != nil && i > 0 {
			return []float64{math.NaN()}, nil // as Docker's registry, which has the tag
		} else if err != nil {
			return nil, err
		}
		if i == 0 { // it filled the cache
			l.up.broken.Store(true)
			defer l.up.broken.Store(false)
			continue
		}
		times = append(times, time.Since(begun).Seconds()*1000)
	}
	slices.Sort(times)
	return []float64{times[pulls/2]}, nil
}

func manifestBeside(ctx context.Context, l *lab) (_ []float64, err error) {
	const rounds = 9
	s, err := l.start(ctx, "")
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	l.up.place(distance{latency: wan.latency})
	var times []float64
	for range rounds {
		blob, img := l.up.addBlob(64*mib), l.addLayers(14*kib)
		if err := c.get(ctx, "blobs/"+blob.String(), "", nil); err != nil {
			return nil, err
		}
		begun := time.Now()
		if err := c.get(ctx, "manifests/"+img.tag, "", nil); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begun).Seconds()*1000)
	}
	slices.Sort(times)
	return []float64{times[rounds/2]}, nil
}

func smallObjects(ctx context.Context, l *lab) (_ []float64, err error) {
	const images, layers, clients = 2000, 8, 16
	all := make([]*image, images)
	for i := range all {
		all[i] = l.up.addImage(slices.Repeat([]int64{kib}, layers)...)
	}
	s, err := l.start(ctx, "")
	if err != nil {
		return nil, err
	}
	defer s.stop(&err)
	c := newClient(s)
	defer c.close()
	before, begun := s.cpu(), time.Now()
	var pulls errgroup.Group
	pulls.SetLimit(clients)
	for _, img := range all {
		pulls.Go(func() error {
			_, err := c.pull(ctx, img)
			return err
		})
	}
	err = pulls.Wait()
	const objects = images * (layers + 2)
	return []float64{objects / time.Since(begun).Seconds(), (s.cpu() - before) * 1e6 / objects, s.memory("VmRSS")}, err
}

// start measures an empty server.
func start(ctx context.Context, l *lab) ([]float64, error) {
	const settling = 2 * time.Second
	info, err := os.Stat(l.program)
	if err != nil {
		return nil, err
	}
	ready, memory, _, err := l.ready(ctx, "", settling)
	return []float64{ready, memory, float64(info.Size()) / mib}, err
}

// restart measures a server with stored objects, which are made as files.
func restart(ctx context.Context, l *lab) ([]float64, error) {
	const objects, settling = 100_000, 5 * time.Second
	blobs := filepath.Join(l.dir, "data", "blobs", "sha256")
	for first := range 256 {
		if err := os.MkdirAll(filepath.Join(blobs, fmt.Sprintf("%02x", first)), 0o750); err != nil {
			return nil, err
		}
	}
	var digest [32]byte
	for range objects {
		rand.Read(digest[:])
		name := hex.EncodeToString(digest[:])
		if err := os.WriteFile(filepath.Join(blobs, name[:2], name), digest[:], 0o640); err != nil { //nolint:gosec // as the store does
			return nil, err
		}
	}
	ready, memory, cpu, err := l.ready(ctx, "\n\nmax_size = \"50GiB\"", settling)
	return []float64{ready, memory, cpu}, err
}

// ready returns the milliseconds until a new server answers, and the memory in MiB and the
// processor time in seconds that it has used some time after that.
func (l *lab) ready(ctx context.Context, settings string, settling time.Duration) (millis, memory, cpu float64, err error) {
	begun := time.Now()
	s, err := l.start(ctx, settings)
	if err != nil {
		return 0, 0, 0, err
	}
	defer s.stop(&err)
	resp, err := http.Get(s.url + "/v2/")
	if err != nil {
		return 0, 0, 0, err
	}
	millis = float64(time.Since(begun).Microseconds()) / 1000
	if err := resp.Body.Close(); err != nil {
		return 0, 0, 0, err
	}
	time.Sleep(settling)
	return millis, s.memory("VmRSS"), s.cpu(), nil
}
