package hostile

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// ranger asks for thousands of ranges at once, and for ranges far ahead of a download,
// which it does not read.
func ranger(*stage) actor {
	const size = 48 * mib
	registry := func(w http.ResponseWriter, r *http.Request) {
		_, kind, _ := parse(r.URL.Path)
		var from, to int64 = 0, size - 1
		ranged := r.Header.Get("Range") != ""
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
			to = size - 1
		}
		if kind != "blobs" || from > to || to >= size {
			refuse(w, http.StatusNotFound, "BLOB_UNKNOWN")
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
		if !ranged { // every range is ahead of this
			_, _ = w.Write([]byte("x"))
			hold(w, r)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, size))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.CopyN(w, zeros{}, to-from+1)
	}
	var many strings.Builder
	for i := range 3053 {
		fmt.Fprintf(&many, ",%d-%d", i*kib, i*kib+9)
	}
	ask := func(ctx context.Context, a *attacker) {
		n := a.next()
		path := a.path("app/blobs/%s", digest.FromString(fmt.Sprint("ranges ", n/16)))
		if n%4 == 0 {
			a.get(ctx, path, "Range", "bytes="+many.String()[1:])
			return
		}
		conn, err := a.dial(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		a.sent.Add(1)
		_ = conn.(*net.TCPConn).SetReadBuffer(4 * kib)
		_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: weir\r\nRange: bytes=%d-\r\n\r\n", path, 4*mib+n*kib%(32*mib))
		wait(ctx, patient)
	}
	return actor{name: "ranger", upstream: registry, workers: 32, pause: 50 * time.Millisecond, attack: ask}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
