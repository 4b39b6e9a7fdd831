package catalog_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/storagetest"
)

// Pins are no records of content: they stay when all of a repository goes, and make no repository.
func TestPins(t *testing.T) {
	m := storagetest.NewMemory(t)
	c := catalog.New(m.Records(), catalog.Options{})
	repo := storage.RepoID{Namespace: "ghcr.io", Name: "org/app"}
	since := time.Now().UTC().Round(time.Second)
	for i, pin := range []catalog.Pin{
		{Repo: repo, Tag: "v1", Digest: digest.FromString("v1"), Since: since.Add(time.Second), By: "alice"},
		{Repo: repo, Digest: digest.FromString("v1"), Since: since},
		{Repo: repo, Tag: "v1", Digest: digest.FromString("v2"), Since: since.Add(time.Second), By: "alice"}, // the tag has moved
	} {
		if err := c.PutPin(t.Context(), pin); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, err := c.Prune(t.Context(), catalog.PruneOptions{Gone: func(context.Context, digest.Digest) (bool, error) { return true, nil }}); err != nil {
		t.Fatal(err)
	}
	if repos, err := c.Repositories(t.Context()); err != nil || len(repos) != 0 {
		t.Errorf("the repositories are %v, %v", repos, err)
	}
	for key, err := range m.Records().List(t.Context(), "") {
		if err != nil || !catalog.Owns(key) { // else mirrors on one bucket do not share it
			t.Errorf("%s, %v", key, err)
		}
	}
	c = catalog.New(m.Records(), catalog.Options{})
	pins, err := c.Pins(t.Context())
	if err != nil || len(pins) != 2 || pins[0].Tag != "" || pins[1].Digest != digest.FromString("v2") || pins[1].By != "alice" || !pins[1].Since.Equal(since.Add(time.Second)) {
		t.Errorf("the pins are %+v, %v", pins, err)
	}
	for _, invalid := range []catalog.Pin{{Repo: repo, Digest: "sha256:x"}, {Repo: repo, Tag: "a/b", Digest: digest.FromString("v1")}, {Digest: digest.FromString("v1")}} {
		if err := c.PutPin(t.Context(), invalid); err == nil {
			t.Errorf("%+v is a pin", invalid)
		}
	}
	// A record under the key of another image counts as absent.
	for key, err := range m.Records().List(t.Context(), "_pins") {
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Records().Put(t.Context(), key, []byte(`{"version":1,"repository":{"Namespace":"a","Name":"b"},"tag":"v","digest":"`+digest.FromString("x").String()+`","since":"2026-01-01T00:00:00Z","by":""}`)); err != nil {
			t.Fatal(err)
		}
	}
	if pins, err := c.Pins(t.Context()); err != nil || len(pins) != 0 {
		t.Errorf("forged pins: %+v, %v", pins, err)
	}
	if err := c.DeletePin(t.Context(), catalog.Pin{Repo: repo, Tag: "v2"}); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a pin that is not there: %v", err)
	}
}
