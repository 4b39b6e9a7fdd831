package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// delivery is the record that a namespace's own upstreams have delivered a blob.
type delivery struct {
	Digest digest.Digest `json:"digest"`
}

func validDelivery(key string, d delivery) error {
	if dgst := digestBelow(deliveriesSegment, key); d.Digest != dgst {
		return fmt.Errorf("%w: a delivery of %s that names %q", storage.ErrInvalidRecord, dgst, string(d.Digest))
	}
	return storage.ValidateDigest(d.Digest)
}

// PutDelivery records that a namespace's own upstreams have delivered all bytes of a
// content. It writes nothing if that is recorded.
func (c *Catalog) PutDelivery(ctx context.Context, namespace string, dgst digest.Digest) error {
	key, err := deliveryKey(namespace, dgst)
	if err != nil {
		return err
	}
	return c.deliveries.replace(ctx, key, func(known delivery) (delivery, bool) {
		return delivery{dgst}, known.Digest != dgst
	})
}

// Delivered returns nil if it is recorded that a namespace's own upstreams have delivered
// all bytes of a blob, and otherwise ErrNotExist.
func (c *Catalog) Delivered(ctx context.Context, namespace string, dgst digest.Digest) error {
	key, err := deliveryKey(namespace, dgst)
	if err != nil {
		return err
	}
	_, err = c.deliveries.get(ctx, key)
	return err
}

// keepingKey is the key of the one record of all namespaces that keep their content to
// themselves. It is of no sort, so that it is never removed to make room or with old
// records: without it, content of a namespace that is gone would be lent.
const keepingKey = "_keeping"

// Keeping returns the namespaces of the last PutKeeping, none if there was none. A record
// that is damaged is an error.
func (c *Catalog) Keeping(ctx context.Context) ([]string, error) {
	document, err := c.records.Get(ctx, keepingKey)
	if errors.Is(err, storage.ErrNotExist) && !errors.Is(err, storage.ErrUnreadable) {
		return nil, nil
	}
	var namespaces []string
	if err == nil {
		err = json.Unmarshal(document, &namespaces)
	}
	return namespaces, err
}

// PutKeeping replaces the namespaces that keep their content to themselves.
func (c *Catalog) PutKeeping(ctx context.Context, namespaces []string) error {
	document, err := json.Marshal(namespaces)
	if err != nil {
		return err
	}
	return c.records.Put(ctx, keepingKey, document)
}
