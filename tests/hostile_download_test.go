package tests

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// tarpit is a registry whose blobs announce a length (-1: none), begin with some
// bytes and never end. The second result counts the requests for blobs.
func tarpit(t *testing.T, announced int64, begin int) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	stop := make(chan struct{})
	var requests atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return
		}
		if announced >= 0 {
			w.Header().Set("Content-Length", strconv.FormatInt(announced, 10))
		}
		_, _ = w.Write(make([]byte, begin))
		_ = http.NewResponseController(w).Flush()
		requests.Add(1)
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(stop) })
	return s, &requests
}

// invented returns the digest of a blob that no registry has.
func invented(n int) digest.Digest { return digest.FromString(fmt.Sprint("invented ", n)) }

// An upstream that announces much and sends little has no content of others evicted,
// and does not keep new content from being stored.
func TestAnnouncementsEvictNothing(t *testing.T) {
	testutil.Long(t, "fills a store for each kind of announcement")
	t.Parallel()
	const limit, old = 32 * mib, 7
	for name, c := range map[string]struct {
		announced int64
		begin     int
		downloads int
		leave     bool // the clients do, after the first byte
		gone      int  // blobs that may be evicted for the bytes that came
	}{
		"one byte of nearly the cap":              {announced: limit - mib, begin: 1, downloads: 1},
		"one byte of nearly the cap, no client":   {announced: limit - mib, begin: 1, downloads: 1, leave: true},
		"one byte of far more than the cap":       {announced: 1043333120, begin: 1, downloads: 1},
		"many of a part":                          {announced: 3 * mib, begin: 1, downloads: 40},
		"many without a length":                   {announced: -1, begin: 1, downloads: 40, leave: true},
		"the largest length of all":               {announced: 1<<63 - 1, begin: 1, downloads: 3},
		"no byte":                                 {announced: 16 * mib, downloads: 4},
		"as much as two contents, and then stops": {announced: limit - mib, begin: 5 * mib, downloads: 1, gone: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			honest := upstreamtest.New(t)
			hostile, requests := tarpit(t, c.announced, c.begin)
			w := harness.StartWeir(t, limited(honest, `max_size = "32MiB"`, `min_free = "1MiB"`)+
				blockOf("hostile", nil, []string{fmt.Sprintf("url = %q", hostile.URL)}))
			var kept []digest.Digest
			for i := range old {
				kept = append(kept, addRandom(t, honest, "org/app", 4*mib, uint64(60000+i)))
				expectContent(t, "kept", w.Get(t, blobPath("mirror/org/app", kept[i])), kept[i], statusStored)
			}
			w.MetricIs(t, 0, "weir_downloads")
			client := &http.Client{Timeout: harness.Patience}
			if c.leave {
				client.Timeout = 500 * time.Millisecond
			}
			for i := range c.downloads {
				go func() {
					if resp, err := client.Get(w.URL + blobPath("hostile/org/app", invented(i))); err == nil {
						resp.Body.Close()
					}
				}()
			}
			harness.Eventually(t, "all downloads run", func() bool { return requests.Load() >= int64(c.downloads) })
			time.Sleep(time.Second) // for the evictor, which has nothing to do
			fresh := addRandom(t, honest, "org/app", mib, 60100)
			expectContent(t, "new", w.Get(t, blobPath("mirror/org/app", fresh)), fresh, statusStored)
			hits := 0
			for _, dgst := range kept {
				if w.Do(t, http.MethodHead, blobPath("mirror/org/app", dgst)).Header.Get("Cache-Status") == statusHit {
					hits++
				}
			}
			if hits < old-c.gone {
				t.Errorf("%d of %d contents are still stored", hits, old)
			}
			harness.Eventually(t, "new content is stored", func() bool {
				return w.Get(t, blobPath("mirror/org/app", fresh)).Header.Get("Cache-Status") == statusHit
			})
			if got := bytesStored(t, w); got > limit {
				t.Errorf("%d bytes are on disk", got)
			}
		})
	}
}

// A flood of one block's content, complete or not, leaves the other blocks half of the
// store, less the headroom, and room for new content.
func TestFloodLeavesOthersTheirShare(t *testing.T) {
	testutil.Long(t, "floods a full store in many ways")
	t.Parallel()
	const size, old = 2 * mib, 14 // of 32 MiB, or of what a tmpfs of 40 MiB has beyond min_free
	for name, c := range map[string]struct {
		limit  string // of the store
		tmpfs  string
		bodies func(t *testing.T, w *harness.Weir, blobs map[digest.Digest][]byte)
	}{
		"complete blobs, max_size":   {limit: `max_size = "32MiB"`, bodies: completeFlood},
		"complete blobs, min_free":   {limit: `min_free = "8MiB"`, tmpfs: "40m", bodies: completeFlood},
		"endless bodies, max_size":   {limit: `max_size = "32MiB"`, bodies: endlessFlood},
		"endless bodies, min_free":   {limit: `min_free = "8MiB"`, tmpfs: "40m", bodies: endlessFlood},
		"announced bodies, max_size": {limit: `max_size = "32MiB"`, bodies: announcedFlood},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if c.tmpfs != "" {
				dir = onTmpfs(t, c.tmpfs)
			}
			honest := upstreamtest.New(t)
			blobs := floodOf(40)
			hostile := floods(t, blobs)
			w := harness.StartWeirIn(t, dir, limited(honest, c.limit)+blockOf("hostile", nil, []string{fmt.Sprintf("url = %q", hostile)}))
			var kept []digest.Digest
			for i := range old {
				kept = append(kept, addRandom(t, honest, "org/app", size, uint64(62000+i)))
				expectContent(t, "kept", w.Get(t, blobPath("mirror/org/app", kept[i])), kept[i], statusStored)
			}
			w.MetricIs(t, 0, "weir_downloads")
			c.bodies(t, w, blobs)
			time.Sleep(time.Second) // for the evictor
			hits := 0
			for _, dgst := range kept {
				if w.Do(t, http.MethodHead, blobPath("mirror/org/app", dgst)).Header.Get("Cache-Status") == statusHit {
					hits++
				}
			}
			t.Logf("%d of %d contents are still stored", hits, old)
			if hits < old/2-1 {
				t.Errorf("%d of %d contents are still stored", hits, old)
			}
			fresh := addRandom(t, honest, "org/app", mib, 62100)
			expectContent(t, "new", w.Get(t, blobPath("mirror/org/app", fresh)), fresh, statusStored)
			harness.Eventually(t, "new content is stored", func() bool {
				return w.Get(t, blobPath("mirror/org/app", fresh)).Header.Get("Cache-Status") == statusHit
			})
			w.MetricIs(t, 0, "weir_store_failing", "kind", "content")
		})
	}
}

// floods is a registry of the given blobs. In place of all others it sends zeroes: those
// of the repository "endless" have no length and never end, and those of "announced" announce 12 MiB
// and stop after one.
func floods(t *testing.T, blobs map[digest.Digest][]byte) (url string) {
	t.Helper()
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, name, isBlob := strings.Cut(r.URL.Path, "/blobs/")
		body, isComplete := blobs[digest.Digest(name)]
		switch {
		case !isBlob:
			return
		case isComplete:
			_, _ = w.Write(body)
			return
		case strings.Contains(r.URL.Path, "/announced/"):
			w.Header().Set("Content-Length", strconv.Itoa(12*mib))
		}
		for range 12 {
			_, _ = w.Write(make([]byte, mib))
			_ = http.NewResponseController(w).Flush()
			if w.Header().Get("Content-Length") != "" {
				break
			}
		}
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(stop) })
	return s.URL
}

// floodOf returns n blobs of 1 MiB by their digests.
func floodOf(n int) map[digest.Digest][]byte {
	blobs := make(map[digest.Digest][]byte, n)
	for i := range n {
		body := make([]byte, mib)
		copy(body, fmt.Sprint("flood ", i))
		blobs[digest.FromBytes(body)] = body
	}
	return blobs
}

func completeFlood(t *testing.T, w *harness.Weir, blobs map[digest.Digest][]byte) {
	for dgst := range blobs {
		expectContent(t, "flood", w.Get(t, blobPath("hostile/org/app", dgst)), dgst, "")
	}
	w.MetricIs(t, 0, "weir_downloads")
}

func endlessFlood(t *testing.T, w *harness.Weir, _ map[digest.Digest][]byte) {
	flood(t, w, "hostile/org/endless/app", 10*mib)
}

func announcedFlood(t *testing.T, w *harness.Weir, _ map[digest.Digest][]byte) {
	flood(t, w, "hostile/org/announced/app", mib/2)
}

// flood has clients read that many bytes of each of 24 blobs, and stay.
func flood(t *testing.T, w *harness.Weir, repo string, bytes int64) {
	t.Helper()
	var read sync.WaitGroup
	for i := range 24 {
		read.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+blobPath(repo, invented(7000+i)), nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { resp.Body.Close() })
			_, _ = io.CopyN(io.Discard, resp.Body, bytes)
		})
	}
	read.Wait()
}

// An upstream whose downloads never end does not keep the clients of other blocks
// waiting, however many downloads it has begun.
func TestTarpitLeavesPlaces(t *testing.T) {
	testutil.Long(t, "pulls beside a tarpit")
	t.Parallel()
	const pulls, latency = 24, 500 * time.Millisecond
	for name, hostile := range map[string]struct {
		blocks int
		answer func(w http.ResponseWriter, r *http.Request)
	}{
		"no answer": {1, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"one byte": {1, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}},
		"a byte at times, two blocks": {2, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 100))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			tarpit := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/blobs/") {
					requests.Add(1)
					hostile.answer(w, r)
				}
			}))
			t.Cleanup(tarpit.Close) // after the mirror has left
			honest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, name, ok := strings.Cut(r.URL.Path, "/blobs/"); ok {
					time.Sleep(latency)
					_, _ = w.Write(blobsOf(2 * pulls)[name])
				}
			}))
			t.Cleanup(honest.Close)
			config := blockOf("honest", nil, []string{fmt.Sprintf("url = %q", honest.URL)})
			for i := range hostile.blocks {
				config += blockOf(fmt.Sprint("hostile", i), nil, []string{fmt.Sprintf("url = %q", tarpit.URL)})
			}
			w := harness.StartWeir(t, config)
			var wanted []digest.Digest
			for dgst := range blobsOf(2 * pulls) {
				wanted = append(wanted, digest.Digest(dgst))
			}
			pullAll := func(label string, blobs []digest.Digest) time.Duration {
				began := time.Now()
				var all []*harness.Pulling
				for _, dgst := range blobs {
					all = append(all, w.Pull(t, blobPath("honest/org/app", dgst)))
				}
				for i, p := range all {
					p.Whole(t, label, blobs[i])
				}
				return time.Since(began)
			}
			alone := pullAll("alone", wanted[:pulls])
			for i := range hostile.blocks {
				for n := range 64 {
					w.Pull(t, blobPath(fmt.Sprintf("hostile%d/org/app", i), invented(n*2+i)))
				}
			}
			harness.Eventually(t, "the tarpit holds places", func() bool { return requests.Load() >= 60 })
			time.Sleep(1500 * time.Millisecond) // each has had its time
			beside := pullAll("beside the tarpit", wanted[pulls:])
			t.Logf("%d pulls took %s alone, %s beside the tarpit", pulls, alone.Round(time.Millisecond), beside.Round(time.Millisecond))
			if beside > 2*alone {
				t.Errorf("%d pulls took %s, and %s alone", pulls, beside, alone)
			}
			if got := w.Metric(t, "weir_downloads_yielded_total"); got == 0 {
				t.Error("weir_downloads_yielded_total is 0")
			}
		})
	}
}

// blobsOf returns n small blobs by their digests.
func blobsOf(n int) map[string][]byte {
	blobs := make(map[string][]byte, n)
	for i := range n {
		content := fmt.Appendf(nil, "honest content %d", i)
		blobs[digest.FromBytes(content).String()] = content
	}
	return blobs
}

// A blob above max_blob_size is not served, whether its length is announced or not,
// and the message names the key. Others are.
func TestMaxBlobSize(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(t)
	w := harness.StartWeir(t, "[global]\nmax_blob_size = \"1MiB\"\n"+block("mirror", upstream))
	fits := addRandom(t, upstream, "org/app", mib, 61000)
	large := addRandom(t, upstream, "org/app", mib+1, 61001)
	unannounced := addRandom(t, upstream, "org/app", 4*mib, 61002)
	upstream.Fault(upstreamtest.Path(unannounced.Encoded()), upstreamtest.Chunked())
	expectContent(t, "fits", w.Get(t, blobPath("mirror/org/app", fits)), fits, statusStored)
	a := w.Get(t, blobPath("mirror/org/app", large))
	expect(t, "announced", a, http.StatusBadGateway, "")
	if !strings.Contains(string(a.Body), "Raise global.max_blob_size") {
		t.Errorf("%s", a.Body)
	}
	if a := w.Do(t, http.MethodHead, blobPath("mirror/org/app", large)); a.Status != http.StatusBadGateway {
		t.Errorf("HEAD: %d", a.Status)
	}
	if a := w.Get(t, blobPath("mirror/org/app", unannounced)); a.Err == nil || len(a.Body) > mib {
		t.Errorf("without a length: %d, %d bytes, %v", a.Status, len(a.Body), a.Err)
	}
	w.MetricIs(t, 0, "weir_downloads")
	if got := bytesStored(t, w); got != mib {
		t.Errorf("%d bytes are stored", got)
	}
}

// A download that its clients have left is given up if its bytes come more slowly than
// min_speed, and its connection ends. Faster ones, and those that clients wait for, go on.
func TestMinSpeed(t *testing.T) {
	testutil.Long(t, "more than a minute, over which the speed is averaged")
	t.Parallel()
	var ends []func() // of each case, after the minute that all of them share
	for name, c := range map[string]struct {
		least   string
		portion int // bytes, ten times a second
		stay    bool
		ends    bool
	}{
		"slower":                  {least: "100KiB", portion: 1 << 10, ends: true},
		"no byte after the first": {least: "100KiB", portion: 0, ends: true},
		"by default, some bytes":  {least: "", portion: 10, ends: true},
		"faster":                  {least: "100KiB", portion: 100 << 10},
		"slower, with a client":   {least: "100KiB", portion: 1 << 10, stay: true},
		"any speed":               {least: "0", portion: 1},
	} {
		drips, connections := startDrips(t, c.portion)
		config := "[global]\n"
		if c.least != "" {
			config += fmt.Sprintf("min_speed = %q\n", c.least)
		}
		w := harness.StartWeir(t, config+blockOf("slow", nil, []string{fmt.Sprintf("url = %q", drips.URL)}))
		path := blobPath("slow/org/app", invented(1))
		if c.stay {
			reading := w.OpenSlow(t, path)
			defer reading.Body.Close()
		} else {
			leave(t, w, path, 1)
		}
		w.MetricIs(t, 1, "weir_downloads")
		ends = append(ends, func() {
			if !c.ends {
				if w.Metric(t, "weir_downloads") != 1 || connections.Load() != 1 {
					t.Errorf("%s: the download was stopped", name)
				}
				return
			}
			w.MetricIs(t, 1, "weir_downloads_ended_total", "result", "slow")
			w.MetricIs(t, 0, "weir_downloads")
			harness.Eventually(t, "the connection ends", func() bool { return connections.Load() == 0 })
			w.Logs(t, "no client waits for the download, so it was stopped", "lower global.min_speed")
		})
	}
	time.Sleep(65 * time.Second)
	for _, end := range ends {
		end()
	}
}

// startDrips starts a registry whose blobs come in portions, ten times a second, and returns
// the number of its connections too.
func startDrips(t *testing.T, bytes int) (*httptest.Server, *atomic.Int64) {
	connections := new(atomic.Int64)
	drips := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return
		}
		connections.Add(1)
		defer connections.Add(-1)
		portion := make([]byte, 33<<10) // a KiB before the tail that is withheld
		for r.Context().Err() == nil {
			_, _ = w.Write(portion)
			_ = http.NewResponseController(w).Flush()
			portion = make([]byte, bytes)
			time.Sleep(100 * time.Millisecond)
		}
	}))
	t.Cleanup(drips.Close)
	return drips, connections
}
