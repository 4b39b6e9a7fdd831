package hostile

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// squatter asks its own registry for the layers that the honest clients are about to
// pull, so that those find a download of the same digest: one that never ends, or one of
// wrong bytes.
func squatter(s *stage) actor {
	open := s.honest["open"].content
	registry := func(w http.ResponseWriter, r *http.Request) {
		_, kind, ref := parse(r.URL.Path)
		size := len(open.body(digest.Digest(ref)))
		if kind != "blobs" || size == 0 {
			refuse(w, http.StatusNotFound, "BLOB_UNKNOWN")
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		if r.Method == http.MethodHead {
			return
		}
		switch ref[len(ref)-1] % 3 {
		case 0: // as many bytes, and all of them wrong
			_, _ = w.Write(make([]byte, size))
		case 1: // the right beginning, and no end
			_, _ = w.Write(open.body(digest.Digest(ref))[:size/4])
			hold(w, r)
		case 2:
			hold(w, r)
		}
	}
	squat := func(ctx context.Context, a *attacker) {
		var all sync.WaitGroup
		for _, dgst := range open.image(fmt.Sprint("n", s.pulled.Load()+2+a.next()%8)).blobs {
			all.Go(func() { a.get(ctx, a.path("app/blobs/%s", dgst)) })
		}
		all.Wait()
	}
	return actor{name: "squatter", upstream: registry, workers: 6, pause: 20 * time.Millisecond, attack: squat}
}

// hold sends what was written so far, and then no more.
func hold(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}
