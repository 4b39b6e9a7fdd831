// Package clientconfig makes the files that let clients pull through a mirror:
// Docker, containerd, Podman, BuildKit, K3s and their relatives. Clients that have no
// such file, for example crane, get notes about the names of images.
//
// The package is pure: the mirror's address and its namespaces go in, texts come
// out. Each kind of client has a file in this package. It explains how the client asks a
// mirror, and so which namespaces the client can reach.
//
// No file makes a client use the mirror for all registries, although some clients
// support that. A mirror answers 404 for a registry that it does not mirror, so each
// image of such a registry would cost requests for nothing.
package clientconfig

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"

	"github.com/weirhq/weir/oci"
)

// Namespace is a namespace of the mirror.
type Namespace struct {
	Key     string // the first path segments of the names that it serves
	Host    string // the registry that it answers for if a client names one; empty: none
	Default bool   // it serves the names that no key matches
}

// NewNamespace returns the namespace of a repository block. Any name of Docker Hub becomes the one
// that all clients use.
func NewNamespace(key, host string, isDefault bool) Namespace {
	if oci.IsDockerHub(host) {
		host = oci.DockerHub
	}
	return Namespace{Key: key, Host: host, Default: isDefault}
}

// Config holds the files of a client, and notes for the operator.
type Config struct {
	Files    []File
	Warnings []string // namespaces that the client cannot reach, and alternatives
	Hints    []string // how to install the files
	Test     string   // a command that pulls through the mirror, once they are installed; "" if none is known
}

// File is a file on the client's machine.
type File struct {
	Path    string // absolute
	Content string
	Secret  bool // only its owner may read it
}

// client makes the configuration of one client.
type client struct {
	name    string
	aliases []string // other names of the same program or of its parts
	make    func(Mirror, []Namespace) Config
}

func clients() []client {
	return []client{
		{"docker", []string{"dockerd", "docker-engine", "docker-ce", "moby", "docker-compose", "compose"}, docker},
		{"containerd", []string{"ctr"}, containerd},
		{"nerdctl", nil, nerdctl},
		{"kubernetes", []string{"k8s", "kubelet", "kubeadm", "kubectl", "crictl", "cri"}, kubernetes},
		{"podman", nil, podman},
		{"buildah", nil, podman},
		{"skopeo", nil, podman},
		{"crio", []string{"cri-o"}, crio},
		{"buildkit", []string{"buildkitd", "buildctl", "buildx", "docker-buildx"}, buildkit},
		{"k3s", []string{"k3d", "rancher"}, k3s},
		{"rke2", []string{"rke"}, rke2},
		{"crane", []string{"gcrane"}, crane},
		{"regctl", []string{"regclient"}, regctl},
		{"oras", nil, oras},
		{"helm", []string{"helm3"}, helm},
		{"cosign", nil, cosign},
	}
}

// Clients returns the names of the clients that [For] knows, without aliases.
func Clients() []string {
	var names []string
	for _, c := range clients() {
		names = append(names, c.name)
	}
	return names
}

// For returns the configuration of a client for a mirror with the given namespaces.
// The client's name may be an alias, in any case. It returns an error if it does not
// know the client, or if the mirror's address is also the registry of a namespace.
func For(name string, m Mirror, namespaces []Namespace) (Config, error) {
	known := clients()
	wanted := strings.ToLower(name)
	i := slices.IndexFunc(known, func(c client) bool { return c.name == wanted || slices.Contains(c.aliases, wanted) })
	if i < 0 {
		return Config{}, unknownClient(name)
	}
	for _, n := range namespaces {
		// The client would ask the mirror for the mirror's own upstream, for ever.
		if n.Host == m.Host {
			return Config{}, fmt.Errorf("%s cannot be the mirror, since it is also the registry that repository.%q mirrors", m.Host, n.Key)
		}
	}
	c := known[i].make(m, namespaces)
	c.Test = cmp.Or(c.Test, test(known[i].name, m, namespaces))
	return m.loggedIn(known[i].name, c), nil
}

// unknownClient returns the error for a name that no client has. It suggests the
// nearest name or alias, if one is near.
func unknownClient(name string) error {
	var names []string
	for _, c := range clients() {
		names = append(append(names, c.name), c.aliases...)
	}
	distance := func(candidate string) int { return levenshtein.Distance(strings.ToLower(name), candidate, nil) }
	nearest := slices.MinFunc(names, func(a, b string) int { return distance(a) - distance(b) })
	suggestion := ""
	// Two wrong letters are a typo, but not if they are most of the name.
	if distance(nearest) <= min(2, len(nearest)/2) {
		suggestion = "did you mean " + nearest + "? "
	}
	return fmt.Errorf("unknown client %q; %sknown are %s", name, suggestion, strings.Join(Clients(), ", "))
}

// Print returns the files as one text. A single file is its content alone, which is
// not always of a kind that has comments. Each of several files begins with its path
// as a comment, and an empty line separates them. A secret is named, and not printed.
func Print(files []File) string {
	if len(files) == 1 && !files[0].Secret {
		return files[0].Content
	}
	texts := make([]string, len(files))
	for i, f := range files {
		texts[i] = "# " + f.Path + "\n" + f.Content
		if f.Secret {
			texts[i] = "# " + f.Path + "\n# is a secret, which --dir writes\n"
		}
	}
	return strings.Join(texts, "\n")
}

// selectable returns the namespaces that a client can select if it sends the mirror
// only the host of a registry, in containerd's parameter ns. It returns a warning
// for each other namespace, unless its key is below the key of one that the client can select.
func selectable(client string, m Mirror, all []Namespace) (found []Namespace, warnings []string) {
	for _, n := range all {
		switch {
		case n.Host != "":
			found = append(found, n)
		// The names of this block come with the host of the other one.
		case slices.ContainsFunc(all, func(other Namespace) bool { return other.Host != "" && oci.Below(n.Key, other.Key) }):
		case n.prefix() == "":
			warnings = append(warnings, m.nameless(n))
		case !n.spellable():
			warnings = append(warnings, n.unspellable())
		default:
			warnings = append(warnings, fmt.Sprintf("%s only tells a mirror the registry's host, so it cannot reach repository.%q. "+
				"Begin the names of these images with the mirror: %s/...", client, n.Key, m.spell(n)))
		}
	}
	return found, warnings
}

// nameless returns the warning about a namespace without a registry.
func (m Mirror) nameless(n Namespace) string {
	registry := "registry.example.com"
	if n.Key == "library" {
		registry = oci.DockerHub // the key of its official images
	}
	return fmt.Sprintf("repository.%q does not stand for the host of a registry. Set its namespace, "+
		"for example namespace = %q, or begin the names of its images with the mirror: %s/...", n.Key, registry, m.spell(n))
}

// spell returns the prefix of a namespace's images in a pull that names the mirror.
func (m Mirror) spell(n Namespace) string { return m.Host + "/" + n.Key }

// spellable reports whether [Mirror.spell] is a valid prefix of an image's name: only
// the first segment can have a port, and that is the mirror's.
func (n Namespace) spellable() bool { return !strings.Contains(n.Key, ":") }

// unspellable returns the warning about a namespace that is not spellable, for
// clients that cannot select it in another way.
func (n Namespace) unspellable() string {
	text := fmt.Sprintf("repository.%q has a port in its key, but image names cannot have a port after the mirror's host. Give the block a key without a port", n.Key)
	if n.Host != "" {
		// With another key the block would no longer answer for its registry.
		text += fmt.Sprintf(", and namespace = %q", n.Host)
	}
	return text
}

// prefix returns the prefix of a namespace's images in a pull that does not name the
// mirror: its registry, or a part of one. It is empty if it is not known.
func (n Namespace) prefix() string {
	if n.Host != "" {
		return n.Host
	}
	if first, _, _ := strings.Cut(n.Key, "/"); oci.IsHost(first) {
		return n.Key
	}
	return ""
}
