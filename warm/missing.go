package warm

import (
	"errors"
	"fmt"
)

// NotFound marks an error of a [Source]: the registry does not have the content. An image
// is warm without some content that its registry lacks, see [Result].
func NotFound(err error) error { return notFoundError{err} }

type notFoundError struct{ error }

func (e notFoundError) Unwrap() error { return e.error }

func isNotFound(err error) bool {
	_, ok := errors.AsType[notFoundError](err)
	return ok
}

// missing is the content that the registry lacks although the image names it. All of it
// is named as messages do.
type missing struct {
	children  []string // manifests of the image's indexes
	referrers []string // and manifests of their indexes
	layers    []string // that have addresses of their own
}

// notes names the missing content, one line for each kind of content.
func (m missing) notes() []string {
	var notes []string
	for _, kind := range []struct {
		names     []string
		one, many string
	}{
		{m.children, "manifest that an index names", "manifests that an index names"},
		{m.referrers, "referrer that is listed", "referrers that are listed"},
		{m.layers, "foreign layer, which clients fetch from its own address", "foreign layers, which clients fetch from their own addresses"},
	} {
		switch n := len(kind.names); n {
		case 0:
		case 1:
			notes = append(notes, fmt.Sprintf("the registry lacks 1 %s: %s", kind.one, list(kind.names)))
		default:
			notes = append(notes, fmt.Sprintf("the registry lacks %d %s: %s", n, kind.many, list(kind.names)))
		}
	}
	return notes
}

// missManifest counts a manifest that the registry lacks.
func (w *walk) missManifest(n node) {
	w.advance(func(p *Progress) {
		p.Total.Objects--
		if n.referring > 0 {
			w.missing.referrers = append(w.missing.referrers, n.name)
		} else {
			w.missing.children = append(w.missing.children, n.name)
		}
	})
}

// missLayer counts a layer that the registry lacks.
func (w *walk) missLayer(b blob) {
	w.advance(func(p *Progress) {
		p.Total.Objects--
		p.Total.Bytes -= b.Size
		w.missing.layers = append(w.missing.layers, b.Digest.String())
	})
}
