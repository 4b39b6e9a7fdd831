package evict

import (
	"io"
	"os"
	"sync/atomic"

	"github.com/weirhq/weir/storage"
)

// pin keeps an open content from being evicted.
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

// pinnedFile is still a file to those who look for one: net.TCPConn's ReadFrom
// takes it for the kernel to send, because it has the file's SyscallConn.
type pinnedFile struct {
	*os.File
	pin pin
}

// Close closes the file, and lets it be evicted.
func (f *pinnedFile) Close() error {
	defer f.pin.release()
	return f.File.Close()
}

// pinnedContent is any other content.
type pinnedContent struct {
	io.ReadSeekCloser
	pin pin
}

// Close closes the content, and lets it be evicted.
func (c *pinnedContent) Close() error {
	defer c.pin.release()
	return c.ReadSeekCloser.Close()
}

// pinned returns an object whose Close gives back the pin that its entry holds.
// Object and content are one allocation.
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
