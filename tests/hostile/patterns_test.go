package hostile

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// backtracker asks for tags that its block's patterns take exponential time for.
func backtracker(*stage) actor {
	registry := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		fmt.Fprintf(w, `{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q},"layers":[]}`, ocispec.MediaTypeImageManifest, digest.FromString("x"))
	}
	ask := func(ctx context.Context, a *attacker) {
		a.get(ctx, a.path("app/manifests/%s-%d", strings.Repeat("a", 100), a.next()))
	}
	return actor{
		name: "backtracker", upstream: registry, workers: 4, pause: 50 * time.Millisecond, attack: ask,
		settings: []string{"immutable_tags = true", `immutable_tags_exclusions = ["^(a+)+$", "^(a|a)*$", "^([a-z]+)*[0-9]$", "(x+x+)+y"]`},
	}
}
