package s3

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/minio/minio-go/v7"

	"github.com/weirhq/weir/storage"
)

const (
	// listsAtOnce is how many parts of a bucket are listed at once: a million keys take 1000
	// pages, of 50 to 300 ms each.
	listsAtOnce = 16
	// pageSize is how many keys a worker hands on at once.
	pageSize = 1000
	// maxForeign is how many keys other than those of Weir are counted.
	maxForeign = 10_000
)

// part is a part of the keys below the prefix that is listed by itself.
type part struct {
	prefix string
	shard  string // of content, as its keys begin below blobs/; "": it is not content
	flat   bool   // one entry for all keys below a slash
}

// parts returns the parts of the keys: content in 256 shards, that with seldom algorithms,
// records, and the rest.
func (s *Store) parts() []part {
	var parts []part
	for i := range 256 {
		shard := fmt.Sprintf("sha256/%02x/", i)
		parts = append(parts, part{prefix: s.below(blobsName) + shard, shard: shard})
	}
	for _, shard := range []string{"sha384/", "sha512/"} {
		parts = append(parts, part{prefix: s.below(blobsName) + shard, shard: shard})
	}
	root := s.opts.KeyPrefix
	if root != "" {
		root += "/"
	}
	return append(parts, part{prefix: s.below(recordsName)}, part{prefix: root, flat: true})
}

// listed is a key of a listing: content, a record, or one of another program.
type listed struct {
	content storage.Entry
	other   string // "": it is content
	size    int64  // of other; -1: it is of another program
}

// Contents lists all content, as [Store.All] does, in parts of which several are listed at
// once. It calls other for each other key, with its size, or with -1 if it is that of another
// program. Below the prefix, such keys are reported by their first segment.
func (s *Store) Contents(ctx context.Context, other func(key string, size int64)) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		listing, cancel := context.WithCancelCause(ctx)
		pages := make(chan []listed)
		var seen atomic.Int64
		var workers sync.WaitGroup
		todo := make(chan part)
		for range listsAtOnce {
			workers.Go(func() {
				for p := range todo {
					if err := s.listPart(listing, p, &seen, pages); err != nil {
						cancel(err)
					}
				}
			})
		}
		go func() {
			for _, p := range s.parts() {
				todo <- p
			}
			close(todo)
			workers.Wait()
			close(pages)
		}()
		// The workers have ended before the caller goes on.
		defer func() {
			cancel(nil)
			for range pages { //nolint:revive // they are not wanted
			}
		}()
		for page := range pages {
			for _, found := range page {
				if found.other != "" {
					other(found.other, found.size)
				} else if !yield(found.content, nil) {
					return
				}
			}
		}
		if err := context.Cause(listing); err != nil {
			yield(storage.Entry{}, err)
		}
	}
}

// listPart lists one part, unless the context has ended.
func (s *Store) listPart(ctx context.Context, p part, seen *atomic.Int64, pages chan<- []listed) error {
	if ctx.Err() != nil {
		return nil
	}
	page := make([]listed, 0, pageSize)
	send := func() bool {
		select {
		case pages <- page:
		case <-ctx.Done():
			return false
		}
		page = make([]listed, 0, pageSize)
		return true
	}
	foreign := 0
	for object, err := range s.listBelow(ctx, p.prefix, !p.flat) {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		// All parts together are bounded as one listing is.
		case seen.Add(1) > maxListed:
			return &Error{Operation: string(opList), Reason: Bounds, err: fmt.Errorf("%w: more than %d keys", errTooLong, maxListed)}
		}
		if found, ok := s.classify(p, object); ok {
			page = append(page, found)
			if foreign++; p.flat && foreign == maxForeign {
				break
			}
		}
		if len(page) == pageSize && !send() {
			return nil
		}
	}
	if len(page) > 0 {
		send()
	}
	return nil
}

// classify distinguishes content from other keys. It reports false for those that other parts have.
func (s *Store) classify(p part, object minio.ObjectInfo) (listed, bool) {
	name := strings.TrimPrefix(object.Key, p.prefix)
	switch {
	case p.flat:
		switch strings.TrimSuffix(name, "/") {
		case blobsName, recordsName, evictionName, probeName, markerName:
			return listed{}, false
		}
		return listed{other: object.Key, size: -1}, true
	case p.shard == "":
		return listed{other: object.Key, size: max(object.Size, 0)}, true
	}
	dgst, ok := digestOf(p.shard + name)
	if !ok || object.Size < 0 {
		return listed{other: object.Key, size: -1}, true
	}
	return listed{content: storage.Entry{Info: storage.Info{Digest: dgst, Size: object.Size}, Used: s.local(object.LastModified)}}, true
}
