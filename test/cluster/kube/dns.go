// The cluster's DNS: A records for services (ClusterIP, or the ready endpoints of a headless one),
// from informers, and NXDOMAIN for everything else, since the node has no way out.
package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// ttl is in seconds: short, as test services come and go.
const ttl = 2

type resolver struct {
	domain   string // "cluster.local"
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
}

func newDNSCommand() *cobra.Command {
	var kubeconfig, listen, domain string
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Answer DNS queries for the cluster's services",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			ctx := server.SetupSignalContext()
			factory := informers.NewSharedInformerFactory(client, 0)
			r := &resolver{
				domain:   domain,
				services: factory.Core().V1().Services().Lister(),
				slices:   factory.Discovery().V1().EndpointSlices().Lister(),
			}
			factory.Start(ctx.Done())
			factory.WaitForCacheSync(ctx.Done())
			ended := make(chan error, 2)
			for _, network := range []string{"udp", "tcp"} {
				srv := &dns.Server{Addr: listen, Net: network, Handler: r}
				go func() { ended <- srv.ListenAndServe() }()
				defer func() { _ = srv.Shutdown() }()
			}
			select {
			case err := <-ended:
				return fmt.Errorf("dns: listen on %s: %w", listen, err)
			case <-ctx.Done():
				return nil
			}
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of a user that may list services and endpoint slices")
	cmd.Flags().StringVar(&listen, "listen", ":53", "address to answer on, UDP and TCP")
	cmd.Flags().StringVar(&domain, "domain", "cluster.local", "the cluster's domain")
	return cmd
}

// ServeDNS answers with the addresses of a service, or NXDOMAIN.
func (r *resolver) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(query)
	reply.Authoritative = true
	reply.RecursionAvailable = true
	if len(query.Question) == 1 {
		q := query.Question[0]
		ips, found := r.lookup(strings.ToLower(strings.TrimSuffix(q.Name, ".")))
		if !found {
			reply.Rcode = dns.RcodeNameError
		}
		for _, ip := range ips {
			if q.Qtype == dns.TypeA && ip.To4() != nil {
				reply.Answer = append(reply.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: ip})
			}
		}
	}
	_ = w.WriteMsg(reply) // the asker asks again
}

// lookup resolves [hostname.]service.namespace.svc.<domain>.
func (r *resolver) lookup(name string) (ips []net.IP, found bool) {
	rest, ok := strings.CutSuffix(name, ".svc."+r.domain)
	if !ok {
		return nil, false
	}
	parts := strings.Split(rest, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return nil, false
	}
	hostname, parts := strings.Join(parts[:len(parts)-2], "."), parts[len(parts)-2:]
	svc, err := r.services.Services(parts[1]).Get(parts[0])
	if err != nil {
		return nil, false
	}
	if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		return []net.IP{net.ParseIP(svc.Spec.ClusterIP)}, hostname == ""
	}
	slices, err := r.slices.EndpointSlices(svc.Namespace).List(labels.SelectorFromSet(
		labels.Set{discoveryv1.LabelServiceName: svc.Name}))
	if err != nil {
		return nil, false
	}
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
			named := endpoint.Hostname != nil && *endpoint.Hostname == hostname
			if (!ready && !svc.Spec.PublishNotReadyAddresses) || (hostname != "" && !named) {
				continue
			}
			for _, address := range endpoint.Addresses {
				ips = append(ips, net.ParseIP(address))
			}
		}
	}
	return ips, len(ips) > 0 || hostname == ""
}
