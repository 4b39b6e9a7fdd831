package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/weirhq/weir/storage"
)

// prefix begins the keys of all records of this package. No repository has a name that
// begins with an underscore, so nothing that manages the records of repositories removes
// them.
const prefix = "_acme"

// records keeps certificates, keys and accounts as records of a store.
type records struct {
	Locker
	records storage.Records
}

var _ certmagic.Storage = records{}

// document is the content of a record.
type document struct {
	Modified time.Time `json:"modified"`
	Value    []byte    `json:"value"`
}

func (r records) Store(ctx context.Context, key string, value []byte) error {
	text, err := json.Marshal(document{time.Now().UTC(), value})
	if err != nil {
		return err
	}
	return r.records.Put(ctx, path.Join(prefix, key), text)
}

func (r records) Load(ctx context.Context, key string) ([]byte, error) {
	d, err := r.load(ctx, key)
	return d.Value, err
}

// load returns a document, or fs.ErrNotExist as certmagic expects it. A record that is
// damaged counts as absent, and is written again. So does a certificate whose key is that of
// another one: an interrupted write leaves such a pair, or an attacker who puts an old
// record back. Certmagic would try to use it for ever.
func (r records) load(ctx context.Context, key string) (document, error) {
	d, err := r.read(ctx, key)
	name, isCertificate := strings.CutSuffix(key, ".crt")
	if err != nil || !isCertificate {
		return d, err
	}
	private, err := r.read(ctx, name+".key")
	switch {
	case errors.Is(err, fs.ErrNotExist): // certmagic looks for the key by itself
		return d, nil
	case err != nil:
		return document{}, err
	}
	if _, err := tls.X509KeyPair(d.Value, private.Value); err != nil {
		return document{}, fmt.Errorf("%s: %w: %w", key, fs.ErrNotExist, err)
	}
	return d, nil
}

// read returns a document as it is stored.
func (r records) read(ctx context.Context, key string) (document, error) {
	var d document
	text, err := r.records.Get(ctx, path.Join(prefix, key))
	if errors.Is(err, storage.ErrNotExist) {
		return d, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return document{}, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	return d, nil
}

// Delete removes a record, or all below a path.
func (r records) Delete(ctx context.Context, key string) error {
	below, err := r.List(ctx, key, true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, key := range append(below, key) {
		if err := r.records.Delete(ctx, path.Join(prefix, key)); err != nil && !errors.Is(err, storage.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (r records) Exists(ctx context.Context, key string) bool {
	_, err := r.Stat(ctx, key)
	return err == nil
}

// List returns the keys below a path: all records, or the names in it alone.
func (r records) List(ctx context.Context, at string, recursive bool) ([]string, error) {
	var keys []string
	for key, err := range r.records.List(ctx, path.Join(prefix, at)) {
		if err != nil {
			return nil, err
		}
		key = strings.TrimPrefix(key, prefix+"/")
		if !recursive {
			key = path.Join(at, firstSegment(strings.TrimPrefix(strings.TrimPrefix(key, at), "/")))
			// Records come in the order of their keys, so those below one name are together.
			if len(keys) > 0 && keys[len(keys)-1] == key {
				continue
			}
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: %w", at, fs.ErrNotExist)
	}
	return keys, nil
}

func firstSegment(key string) string {
	segment, _, _ := strings.Cut(key, "/")
	return segment
}

func (r records) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	d, err := r.load(ctx, key)
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: d.Modified, Size: int64(len(d.Value)), IsTerminal: true}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return certmagic.KeyInfo{}, err
	}
	if _, err := r.List(ctx, key, false); err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key}, nil
}
