package evict

import (
	"io"
	"os"
	"sync/atomic"

	"github.com/weirhq/weir/storage"
)

// pin keeps an open blob from being evicted. A second Close of the content must
// not end the pin of another reader.
type pin struct {
	store    *Store
	slot     slot
	released atomic.Bool
}

func (p *pin) release() {
	if !p.released.Swap(true) {
		p.store.unpin(p.slot)
	}
}

// pinnedFile is a pinned blob on disk. It has the file's SyscallConn, so that
// the ReadFrom of a net.TCPConn still has the kernel send it.
type pinnedFile struct {
	*os.File
	pin pin
}

// Close closes the file, and allows its eviction.
func (f *pinnedFile) Close() error {
	defer f.pin.release()
	return f.File.Close()
}

// pinnedContent is a pinned blob of any other kind, such as one in memory.
type pinnedContent struct {
	io.ReadSeekCloser
	pin pin
}

// Close closes the content, and allows its eviction.
func (c *pinnedContent) Close() error {
	defer c.pin.release()
	return c.ReadSeekCloser.Close()
}

// WriteTo lets content in memory write itself, in one piece.
func (c *pinnedContent) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, c.ReadSeekCloser) }

// pinned returns an object whose Close ends the pin of the slot. Object and content
// are one allocation, because each warm pull makes one.
func (s *Store) pinned(object *storage.Object, slot slot) *storage.Object {
	if file, ok := object.Content.(*os.File); ok {
		held := new(struct {
			storage.Object
			file pinnedFile
		})
		held.Info, held.file.File = object.Info, file
		held.file.pin.store, held.file.pin.slot = s, slot
		held.Content = &held.file
		return &held.Object
	}
	held := new(struct {
		storage.Object
		content pinnedContent
	})
	held.Info, held.content.ReadSeekCloser = object.Info, object.Content
	held.content.pin.store, held.content.pin.slot = s, slot
	held.Content = &held.content
	return &held.Object
}
