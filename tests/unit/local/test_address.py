import pytest

from mesh.local.address import PortTaken, choose_addresses
from mesh.local.settings import LocalSettings
from mesh.ports import free_ports


def test_one_port_for_two_listeners_is_refused_by_both_names() -> None:
    (port,) = free_ports(1)
    settings = LocalSettings(edge_port=port, consul_port=port, envoy_admin_port=0)
    with pytest.raises(PortTaken, match=rf"EDGE_PORT and RINGMESH_CONSUL_PORT are both {port}"):
        choose_addresses(settings)
