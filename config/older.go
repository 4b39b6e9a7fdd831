package config

import "maps"

// olderPlaces are keys that Angos has renamed: the table around a key, its older name and
// its new one.
func olderPlaces() []struct{ table, older, new string } {
	return []struct{ table, older, new string }{
		{"", "storage", "blob_store"},
		{"", "cache_store", "cache"},
		{"global", "enable_redirect", "enable_blob_redirect"},
	}
}

// placeOlder returns the document with older keys in their new places, and notes them for
// a warning. If both are there, the new one wins, key by key.
func (d *decoder) placeOlder(root *node) *node {
	for _, place := range olderPlaces() {
		root = d.placeOne(root, place.table, place.older, place.new)
	}
	return root
}

func (d *decoder) placeOne(root *node, in, older, new string) *node {
	holder := root
	if in != "" {
		holder = child(root, in)
	}
	found := child(holder, older)
	if found == nil {
		return root
	}
	keys := maps.Clone(holder.value.(table)) // child has found a key in it
	delete(keys, older)
	if there := keys[new]; there != nil {
		found = merge(found, there)
	}
	keys[new] = found
	at := keyIn(in, older)
	d.config.source.positions[at] = found.position
	d.config.source.older = append(d.config.source.older, olderKey{at, new})
	changed := &node{keys, holder.position}
	if in == "" {
		return changed
	}
	top := maps.Clone(root.value.(table))
	top[in] = changed
	return &node{top, root.position}
}
