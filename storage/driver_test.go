package storage_test

import (
	"testing"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/storagetest"
)

// behind is a decorator that adds nothing.
type behind struct{ storage.Store }

func (b behind) Unwrap() storage.Store { return b.Store }

// opaque is a store that hides the one behind it.
type opaque struct{ storage.Store }

func TestAsFindsCapabilitiesBehindDecorators(t *testing.T) {
	memory := storagetest.NewMemory(t)
	for _, tc := range []struct {
		name  string
		store storage.Store
		want  bool
	}{
		{"the driver", memory, true},
		{"behind two decorators", behind{behind{memory}}, true},
		{"behind a store that is no Unwrapper", behind{opaque{memory}}, false},
	} {
		toucher, ok := storage.As[storage.Toucher](tc.store)
		if ok != tc.want || ok && toucher != storage.Toucher(memory) {
			t.Errorf("%s: %v, %v, want the driver: %v", tc.name, toucher, ok, tc.want)
		}
		if _, ok := storage.As[storage.Quarantiner](tc.store); ok {
			t.Errorf("%s: a capability that the driver lacks was found", tc.name)
		}
	}
}
