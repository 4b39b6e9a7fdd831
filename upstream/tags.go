package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/weirhq/weir/oci"
)

// maxListSize bounds a list with all its pages, in bytes. 10,000 descriptors have 3 MiB.
const maxListSize = 8 << 20

// Tags reads one page of a repository's tags. The query (n, last, and any other
// parameter of an [oci.TagList]'s Next) goes to the registry as it is. The list has
// no Next if that would lead back to the first page or to one before it.
func (c *Client) Tags(ctx context.Context, repo string, query url.Values) (*oci.TagList, error) {
	call := call{op: opTags, limit: ofLists, method: http.MethodGet, repo: repo, path: "/tags/list", query: query,
		header: http.Header{"Accept": {"application/json"}}}
	tags, header, err := c.readTags(ctx, call)
	if err != nil {
		return nil, err
	}
	list := &oci.TagList{Tags: tags, Next: nextPage(header), Upstream: c.host}
	if c.pages.leadsBack(repo, query, list) {
		list.Next = nil
	}
	if list.Tags == nil {
		list.Tags = []string{}
	}
	return list, nil
}

// readTags reads the tags of one page.
func (c *Client) readTags(ctx context.Context, call call) (tags []string, header http.Header, err error) {
	header, err = c.readList(ctx, call, new(int), func(body io.Reader, _ http.Header) (err error) {
		tags, err = oci.ReadTags(body)
		return err
	})
	return tags, header, err
}

// readList reads one page of a list, and calls read with its body and header. Size is that
// of the pages before, and grows. An error of read is a failure of the registry.
func (c *Client) readList(ctx context.Context, call call, size *int, read func(io.Reader, http.Header) error) (http.Header, error) {
	resp, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	doc := newDocument(ctx, resp.Body)
	list := &listBody{doc: doc, size: size}
	switch list.text, err = jsonReader(resp.Header, io.LimitReader(doc, maxListSize+1)); {
	case resp.ContentLength > maxListSize:
		err = errLongList
	case err == nil:
		err = read(list, resp.Header)
	}
	switch {
	case err == nil:
		return resp.Header, nil
	case doc.bytes > maxListSize:
		err = errLongList
	case doc.err != nil && doc.err != io.EOF:
		err = fmt.Errorf("reading the body: %w", doc.err)
	}
	return nil, c.badAnswer(ctx, call, fmt.Errorf("reading a list: %w", err))
}

var errLongList = fmt.Errorf("the list exceeds %d bytes", maxListSize)

// listBody is the body of a page of a list, decoded. It ends with errLongList if all pages together
// are too long.
type listBody struct {
	doc  *document
	text io.Reader
	size *int // of all pages so far, in bytes
}

// Read waits for a place if the list is not short: what was decoded of its pages is in
// memory at once.
func (l *listBody) Read(p []byte) (int, error) {
	n, err := l.text.Read(p)
	*l.size += n
	switch {
	case *l.size > maxListSize:
		return 0, errLongList
	case *l.size > shortDocument:
		if err := l.doc.enter(); err != nil {
			return 0, err
		}
	}
	return n, err
}
