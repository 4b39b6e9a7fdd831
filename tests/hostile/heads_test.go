package hostile

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// liar claims content of a guarded block, whose digests and sizes it knows: it answers
// 200 to each HEAD, and to each GET with as many other bytes.
func liar(s *stage) actor {
	secret := s.honest["guarded"].content
	image := secret.image("w0")
	registry := func(w http.ResponseWriter, r *http.Request) {
		_, kind, ref := parse(r.URL.Path)
		dgst := image.manifest
		for _, blob := range image.blobs {
			if ref == blob.String() {
				dgst = blob
			}
		}
		if kind == "manifests" {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		}
		w.Header().Set("Docker-Content-Digest", dgst.String())
		size := len(secret.body(dgst))
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, size)))
	}
	steal := func(ctx context.Context, a *attacker) {
		for _, path := range []string{"manifests/w0", "manifests/" + image.manifest.String()} {
			a.do(ctx, http.MethodHead, a.path("app/%s", path))
			a.caught(a.get(ctx, a.path("app/%s", path)), secret.body(image.manifest))
		}
		for _, dgst := range image.blobs {
			path := a.path("app/blobs/%s", dgst)
			a.do(ctx, http.MethodHead, path)
			a.caught(a.get(ctx, path), secret.body(dgst))
			a.caught(a.get(ctx, path, "Range", "bytes=-64"), secret.body(dgst))
		}
	}
	return actor{name: "liar", upstream: registry, workers: 2, pause: 200 * time.Millisecond, attack: steal}
}

// caught notes a violation if an answer holds a part of a blob that its client has no
// right to.
func (a *attacker) caught(got answer, secret []byte) {
	const enough = 32 // bytes that no chance brings
	if got.status >= 300 || len(got.body) < enough || !bytes.Contains(secret, got.body[:enough]) {
		return
	}
	a.stage.violated("%s got %d bytes of a private content, %s", a.name, len(got.body), strings.TrimSpace(got.header.Get("Cache-Status")))
}
