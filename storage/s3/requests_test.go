package s3_test

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/storage/s3/s3test"
)

// zeros is a blob of zeros.
type zeros int64

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), int64(z)-off)
	if n <= 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// Parts of content above 64 MiB are on their way together, and those of smaller content one
// after the other.
func TestPartsAtOnce(t *testing.T) {
	testutil.Long(t, "sends contents above 64 MiB")
	for name, tc := range map[string]struct {
		size zeros
		want int // parts at once
	}{"64 MiB": {64 << 20, 1}, "more": {64<<20 + 1, 4}} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			var mu sync.Mutex
			now, most, all := 0, 0, make(chan struct{})
			server.Intercept(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !r.URL.Query().Has("partNumber") {
						next.ServeHTTP(w, r)
						return
					}
					mu.Lock()
					now++
					if most = max(most, now); most == tc.want && now == most {
						select {
						case <-all:
						default:
							close(all)
						}
					}
					mu.Unlock()
					// No part ends before all are there that may come at once.
					select {
					case <-all:
					case <-time.After(time.Minute):
					}
					next.ServeHTTP(w, r)
					mu.Lock()
					now--
					mu.Unlock()
				})
			})
			store := open(t, server, nil)
			dgst := digest.FromString("zeros")
			if err := store.Upload(t.Context(), storage.Info{Digest: dgst, Size: int64(tc.size)}, tc.size); err != nil {
				t.Fatal(err)
			}
			if most != tc.want {
				t.Errorf("%d parts were on their way at once, want %d", most, tc.want)
			}
			if object, _ := server.Get("mirrors/weir/blobs/sha256/" + dgst.Encoded()[:2] + "/" + dgst.Encoded()); len(object.Content) != int(tc.size) {
				t.Errorf("the object has %d bytes", len(object.Content))
			}
		})
	}
}

// Each operation is counted by its kind and by how it ended.
func TestOperationsAreCounted(t *testing.T) {
	server, metrics := s3test.New(t), prometheus.NewRegistry()
	store := open(t, server, func(o *s3.Options) { o.Metrics = s3.NewMetrics(metrics) })
	dgst := digest.FromString("content")
	upload := func() {
		_ = store.Upload(t.Context(), storage.Info{Digest: dgst, Size: 7}, strings.NewReader("content"))
	}
	read := func() {
		if object, err := store.Open(t.Context(), dgst); err == nil {
			_, _ = io.Copy(io.Discard, object.Content)
			object.Content.Close()
		}
	}
	list := func() {
		for range store.All(t.Context()) {
		}
	}
	read()   // get, missing
	upload() // put, ok
	upload() // put, conflict; then head, ok
	read()   // get, ok
	list()
	if _, err := store.Records().Get(t.Context(), "a/key"); !errors.Is(err, storage.ErrNotExist) {
		t.Error(err)
	}
	_ = store.Records().Put(t.Context(), "a/key", []byte("x"))
	_ = store.Delete(t.Context(), dgst) // head and delete
	for _, fault := range []struct {
		status int
		code   string
	}{{403, "AccessDenied"}, {503, "SlowDown"}, {500, "InternalError"}} { // get, denied, throttled, failed
		server.FailIf(anyRequest, fault.status, fault.code)
		read()
	}
	read() // get, paused: three have failed
	want := map[string]float64{
		"get missing": 1, "get ok": 1, "get denied": 1, "get throttled": 1, "get failed": 1, "get paused": 1,
		"put ok": 1, "put conflict": 1, "head ok": 2, "delete ok": 1, "list ok": 1, "read_record missing": 1, "write_record ok": 1,
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		if family.GetName() != "weir_s3_operations_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if value := m.GetCounter().GetValue(); value != 0 {
				got[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = value
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// A server that answers before it has read an upload leaves a connection that still reads the
// content. The next attempt begins at the first byte anyway.
func TestRefusedUploadsAreRepeated(t *testing.T) {
	const size = zeros(8 << 20)
	server := s3test.New(t)
	var mu sync.Mutex
	refused := make(map[string]int)
	server.Intercept(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			refuses := r.Method == http.MethodPut && refused[r.URL.Path] < 2
			if refuses {
				refused[r.URL.Path]++
			}
			mu.Unlock()
			if refuses {
				s3test.Fail(w, http.StatusServiceUnavailable, "SlowDown")
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	store := open(t, server, func(o *s3.Options) { o.MaxAttempts = 3 })
	var uploads sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		uploads.Go(func() {
			dgst := digest.FromString(name)
			if err := store.Upload(t.Context(), storage.Info{Digest: dgst, Size: int64(size)}, size); err != nil {
				t.Errorf("Upload: %v", err)
			}
			if object, _ := server.Get("mirrors/weir/blobs/sha256/" + dgst.Encoded()[:2] + "/" + dgst.Encoded()); len(object.Content) != int(size) {
				t.Errorf("the object has %d bytes", len(object.Content))
			}
		})
	}
	uploads.Wait()
}
