package upstream_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// counted lets a client count the bytes that it reads.
func counted() (option func(*upstream.Options), bytes func() int) {
	registry := prometheus.NewRegistry()
	metrics := upstream.NewMetrics(registry)
	return func(o *upstream.Options) { o.Metrics = metrics }, func() int {
		families, err := registry.Gather()
		if err != nil {
			panic(err)
		}
		sum := 0.0
		for _, family := range families {
			if family.GetName() != "weir_upstream_bytes_total" {
				continue
			}
			for _, m := range family.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
		return int(sum)
	}
}

// Wherever a blob is cut, and whichever member goes on with it, it comes whole and hardly
// a byte comes twice.
func TestCutAnywhere(t *testing.T) {
	const tail = 32 << 10 // readers of a download do not get these bytes before it is verified
	offsets := []int{0, 1, 2, 4095, 4096, blobSize / 2, blobSize - tail - 1, blobSize - tail, blobSize - tail + 1, blobSize - 2, blobSize - 1}
	random := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		offsets = append(offsets, random.IntN(blobSize))
	}
	for name, c := range map[string]struct {
		effects []upstreamtest.Effect
		after   []upstreamtest.Effect // of every later request to the first member
		limit   float64               // how often the blob's size may come from upstream
	}{
		"same upstream":         {nil, nil, 1},
		"without a length":      {[]upstreamtest.Effect{upstreamtest.Chunked()}, []upstreamtest.Effect{upstreamtest.Chunked()}, 1},
		"next upstream":         {nil, []upstreamtest.Effect{upstreamtest.Status(500, "")}, 1},
		"next, lacking it":      {nil, []upstreamtest.Effect{upstreamtest.Status(404, "")}, 1},
		"next, it drops us":     {nil, []upstreamtest.Effect{upstreamtest.Drop()}, 1},
		"next, it is limited":   {nil, []upstreamtest.Effect{upstreamtest.Status(429, "")}, 1},
		"Range is ignored":      {nil, []upstreamtest.Effect{upstreamtest.IgnoreRange()}, 2},
		"ignored, no length":    {[]upstreamtest.Effect{upstreamtest.Chunked()}, []upstreamtest.Effect{upstreamtest.Chunked(), upstreamtest.IgnoreRange()}, 2},
		"ends short of the end": {nil, []upstreamtest.Effect{upstreamtest.Truncate(10)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			for _, offset := range offsets {
				inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
					first := upstreamtest.New(t, upstreamtest.WithNetwork(n, "first.test"))
					second := upstreamtest.New(t, upstreamtest.WithNetwork(n, "second.test"))
					dgst := first.AddBlob("repo", blob)
					second.AddBlob("repo", blob)
					first.Fault(upstreamtest.Blobs, append(c.effects, upstreamtest.CutAfter(int64(offset)))...).Times(1)
					asked := false
					first.Fault(func(*http.Request) bool { defer func() { asked = true }(); return asked }, c.after...)
					count, read := counted()
					chain := upstream.NewChain(upstream.ChainOptions{}, newClient(t, first, on(n), count), newClient(t, second, on(n), count))
					b, err := chain.Blob(t.Context(), "repo", dgst, 0, -1)
					if got := readBody(t, b, err); !bytes.Equal(got, blob) {
						t.Errorf("cut at %d: got %d other bytes", offset, len(got))
					}
					if got := read(); float64(got) > c.limit*blobSize {
						t.Errorf("cut at %d: %d bytes came from upstream", offset, got)
					}
				})
			}
		})
	}
}

// A member that lost the blob is not asked for the rest of it once more.
func TestMemberThatLostIt(t *testing.T) {
	inMemory(t, func(t *testing.T, n *upstreamtest.Network) {
		p := newPair(t, n)
		dgst := p.first.AddBlob("repo", blob)
		p.second.AddBlob("repo", blob)
		p.first.Fault(upstreamtest.Blobs, upstreamtest.CutAfter(1000)).Times(1)
		p.first.Fault(func(r *http.Request) bool { return r.Header.Get("Range") != "" }, upstreamtest.Status(404, ""))
		p.second.Fault(upstreamtest.Blobs, upstreamtest.Status(500, ""))
		b := must[oci.Blob](t)(p.Blob(t.Context(), "repo", dgst, 0, -1))
		defer b.Close()
		_, err := io.ReadAll(b)
		wantError(t, err, upstream.ErrUnavailable)
		wantRequests(t, p.first, dgst, "200", "bytes=1000- 404")
		wantRequests(t, p.second, dgst, "bytes=1000- 500", "bytes=1000- 500", "bytes=1000- 500")
	})
}

// script is an HTTP/1 server with answers that no sound server gives, one
// request after the other; the last script answers all that follow.
func script(t *testing.T, answers ...func(w http.ResponseWriter, byteRange string)) (c *upstream.Client, requests func() int) {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := min(int(asked.Add(1)), len(answers)) - 1
		answers[i](w, r.Header.Get("Range"))
	}))
	t.Cleanup(server.Close)
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c = upstream.NewClient(upstream.Options{URL: target, ReadTimeout: 5 * time.Second})
	t.Cleanup(c.Close)
	return c, func() int { return int(asked.Load()) }
}

// raw writes to the connection as it is and closes it.
func raw(t *testing.T, head string, body []byte) func(http.ResponseWriter, string) {
	return func(w http.ResponseWriter, _ string) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		buffered.WriteString(head)
		buffered.Write(body)
		if err := buffered.Flush(); err != nil {
			t.Error(err)
		}
	}
}

// ranged answers with the range that was asked for.
func ranged(w http.ResponseWriter, byteRange string) {
	var from int
	fmt.Sscanf(byteRange, "bytes=%d-", &from)
	if from >= len(blob) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", len(blob)))
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
	w.WriteHeader(http.StatusPartialContent)
	w.Write(blob[from:])
}

// A body without a length may be cut so that it looks like an end, and may be
// whole where it looks like a cut.
func TestEndsThatAreNone(t *testing.T) {
	const closing = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
	chunk := func(body []byte, terminated bool) string {
		text := fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
		if terminated {
			text += "0\r\n\r\n"
		}
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + text
	}
	no416 := func(w http.ResponseWriter, _ string) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }
	for name, c := range map[string]struct {
		first    func(http.ResponseWriter, string)
		then     func(http.ResponseWriter, string)
		requests int
	}{
		"closed, whole":                {raw(t, closing, blob), ranged, 1},
		"closed early":                 {raw(t, closing, blob[:70_000]), ranged, 2},
		"closed before the first byte": {raw(t, closing, nil), ranged, 2},
		"chunked, cut within a chunk":  {raw(t, chunk(blob, true)[:50_000], nil), ranged, 2},
		"chunked, ended early":         {raw(t, chunk(blob[:70_000], true), nil), ranged, 2},
		"chunked, the end is missing":  {raw(t, chunk(blob, false), nil), ranged, 2},
		"the same, 416 without a size": {raw(t, chunk(blob, false), nil), no416, 2},
	} {
		t.Run(name, func(t *testing.T) {
			client, requests := script(t, c.first, c.then)
			b, err := alone(client).Blob(t.Context(), "repo", digest.FromBytes(blob), 0, -1)
			if got := readBody(t, b, err); !bytes.Equal(got, blob) {
				t.Errorf("got %d other bytes", len(got))
			}
			if b.Size() != blobSize || requests() != c.requests {
				t.Errorf("size %d after %d requests, want %d", b.Size(), requests(), c.requests)
			}
		})
	}
}

// Wrong bytes without a length come to an end anyway.
func TestWrongBytesWithoutLength(t *testing.T) {
	for name, effects := range map[string][]upstreamtest.Effect{
		"ranged": {upstreamtest.Chunked()}, "range ignored": {upstreamtest.Chunked(), upstreamtest.IgnoreRange()},
	} {
		t.Run(name, func(t *testing.T) {
			r := upstreamtest.New(t)
			dgst := r.AddBlob("repo", blob)
			r.Fault(upstreamtest.Blobs, append(effects, upstreamtest.Corrupt(7))...)
			b, err := alone(newClient(t, r)).Blob(t.Context(), "repo", dgst, 0, -1)
			if got := readBody(t, b, err); len(got) != blobSize {
				t.Errorf("got %d bytes", len(got))
			}
			if got := r.Requests(); len(got) != 2 {
				t.Errorf("requests are %q", got)
			}
		})
	}
}

// The rest of a blob from its end on is nothing; a range that a caller asks for
// there is an error.
func TestNothingLeft(t *testing.T) {
	r := upstreamtest.New(t)
	dgst := r.AddBlob("repo", blob)
	c := newClient(t, r)
	b, err := alone(c).Blob(t.Context(), "repo", dgst, blobSize, -1)
	if got := readBody(t, b, err); len(got) != 0 || b.Size() != blobSize || b.Upstream() != r.Host {
		t.Errorf("got %d bytes of %d from %q", len(got), b.Size(), b.Upstream())
	}
	for _, from := range []struct{ offset, length int64 }{{blobSize, 10}, {blobSize + 1, -1}} {
		_, err := alone(c).Blob(t.Context(), "repo", dgst, from.offset, from.length)
		if e := wantError(t, err, upstream.ErrUnavailable); e.Status != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("from %d: %v", from.offset, err)
		}
	}
}

// HTTP/2 has cuts of its own: a stream that is reset, and a server that says
// goodbye.
func TestHTTP2Cuts(t *testing.T) {
	const (
		data, headers, reset, settings, goaway = 0, 1, 3, 4, 7 // types of frames, RFC 9113 section 6
		endStream, endHeaders                  = 1, 4
		internalError, refusedStream           = 2, 7
	)
	frame := func(kind, flags byte, stream uint32, payload []byte) []byte {
		head := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
		return append(binary.BigEndian.AppendUint32(head, stream), payload...)
	}
	words := func(list ...uint32) (payload []byte) {
		for _, word := range list {
			payload = binary.BigEndian.AppendUint32(payload, word)
		}
		return payload
	}
	greeting := frame(settings, 0, 0, nil)
	begun := slices.Concat(greeting, frame(headers, endHeaders, 1, []byte{0x88}), frame(data, 0, 1, blob[:9000])) // 0x88: ":status 200"
	for name, c := range map[string]struct {
		frames []byte
		first  string // the range that the sane server is asked for first
	}{
		"reset":                {slices.Concat(begun, frame(reset, 0, 1, words(internalError))), "bytes=9000-"},
		"refused":              {slices.Concat(greeting, frame(reset, 0, 1, words(refusedStream))), ""},
		"ended early":          {slices.Concat(begun, frame(data, endStream, 1, nil)), "bytes=9000-"},
		"goodbye":              {slices.Concat(begun, frame(goaway, 0, 0, words(1, 0))), "bytes=9000-"},
		"goodbye, unprocessed": {slices.Concat(greeting, frame(goaway, 0, 0, words(0, 0))), ""},
		"closed":               {begun, "bytes=9000-"},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var asked []string
			sane := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				asked = append(asked, r.Header.Get("Range"))
				mu.Unlock()
				ranged(w, r.Header.Get("Range"))
			}))
			sane.EnableHTTP2 = true
			sane.StartTLS()
			t.Cleanup(sane.Close)
			cutter := sendOnce(t, sane.TLS.Certificates, c.frames)

			roots := x509.NewCertPool()
			roots.AddCert(sane.Certificate())
			target := must[*url.URL](t)(url.Parse(sane.URL))
			var dials atomic.Int32
			client := upstream.NewClient(upstream.Options{URL: target, RootCAs: roots, ReadTimeout: 10 * time.Second,
				DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
					if dials.Add(1) == 1 {
						addr = cutter
					}
					return (&net.Dialer{}).DialContext(ctx, network, addr)
				}})
			t.Cleanup(client.Close)
			b, err := alone(client).Blob(t.Context(), "repo", digest.FromBytes(blob), 0, -1)
			if got := readBody(t, b, err); !bytes.Equal(got, blob) {
				t.Errorf("got %d other bytes", len(got))
			}
			if len(asked) != 1 || asked[0] != c.first {
				t.Errorf("the sane server was asked for %q, want %q", asked, c.first)
			}
		})
	}
}

// sendOnce is a server that speaks h2 to one connection: whatever it is asked,
// it sends these frames and closes.
func sendOnce(t *testing.T, certificates []tls.Certificate, frames []byte) (addr string) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		ended.Wait()
	})
	ended.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		// The request begins with the headers of stream 1.
		var seen []byte
		buf := make([]byte, 4096)
		for !bytes.Contains(seen, []byte{1, 5, 0, 0, 0, 1}) {
			n, err := conn.Read(buf)
			if err != nil {
				t.Error(err)
				return
			}
			seen = append(seen, buf[:n]...)
		}
		conn.Write(frames)
		conn.(*tls.Conn).CloseWrite()
		// Unread bytes would turn the close into a reset, which may
		// overtake the frames.
		io.Copy(io.Discard, conn)
	})
	return listener.Addr().String()
}
