"""The part of RunPod's GraphQL schema that its Pulumi plugin speaks, for validation as strict as RunPod's.

Names and types as RunPod publishes them with the plugin (version 0.1.5); endpoints, templates, registry credentials,
account secrets and CPU pods are left out, since nothing of pushtrain asks for them.
"""

from graphql import GraphQLSchema, build_schema

_OUTPUTS = """
scalar DateTime
scalar Port
scalar Void

type Query {
  dataCenters: [DataCenter]
  gpuTypes(input: GpuTypeFilter): [GpuType]
  myself: User
  pod(input: PodFilter): Pod
}

type Mutation {
  podFindAndDeployOnDemand(input: PodFindAndDeployOnDemandInput): Pod
  podEditJob(input: PodEditJobInput!): Pod
  podTerminate(input: PodTerminateInput!): Void
  createNetworkVolume(input: CreateNetworkVolumeInput!): NetworkVolume
  updateNetworkVolume(input: UpdateNetworkVolumeInput!): NetworkVolume
  deleteNetworkVolume(input: DeleteNetworkVolumeInput!): Void
}

type User {
  pods: [Pod] networkVolumes: [NetworkVolume]
  clientBalance: Float currentSpendPerHr: Float pubKey: String
}

type Pod {
  id: String! name: String! machineId: String! desiredStatus: PodStatus! podType: PodType
  imageName: String dockerArgs: String env: [String] ports: String port: Port
  gpuCount: Int! vcpuCount: Float! memoryInGb: Float! costPerHr: Float!
  containerDiskInGb: Int volumeInGb: Float volumeMountPath: String networkVolumeId: String
  templateId: String containerRegistryAuthId: String
}

type NetworkVolume {
  id: String name: String size: Int dataCenterId: String storageClusterId: String storageType: StorageType
}

type GpuType {
  id: String displayName: String manufacturer: String memoryInGb: Int
  secureCloud: Boolean communityCloud: Boolean securePrice: Float communityPrice: Float
  maxGpuCount: Int maxGpuCountSecureCloud: Int maxGpuCountCommunityCloud: Int
  lowestPrice(input: GpuLowestPriceInput): LowestPrice
}

type LowestPrice {
  minimumBidPrice: Float uninterruptablePrice: Float rentedCount: Int totalCount: Int stockStatus: String
}

type DataCenter {
  id: String name: String location: String listed: Boolean region: DataCenterRegion
  storageSupport: Boolean globalNetwork: Boolean compliance: [Compliance] gpuAvailability: [GpuAvailability]
}

type GpuAvailability { gpuTypeId: String gpuTypeDisplayName: String available: Boolean stockStatus: String }

enum Compliance { GDPR ISO_IEC_27001 SOC_2_TYPE_2 }
enum PodStatus { CREATED RUNNING RESTARTING EXITED PAUSED DEAD TERMINATED }
enum PodType { INTERRUPTABLE RESERVED BID BACKGROUND }
enum StorageType { CEPH_FS DDN MOOSE_FS ONE_FS PURE VAST }
enum DataCenterRegion {
  NORTH_AMERICA ASIA EUROPE MIDDLE_EAST AFRICA SOUTH_AMERICA OCEANIA ANTARCTICA UNKNOWN
}
"""

_INPUTS = """
enum CloudTypeEnum { SECURE COMMUNITY ALL }
enum ComputeType { CPU GPU }

input EnvironmentVariableInput { key: String! value: String! }
input SavingsPlanInput { planLength: String upfrontCost: Float }
input GpuTypeFilter { id: String ids: [String!] cluster: Boolean }
input GpuLowestPriceInput { gpuCount: Int! secureCloud: Boolean dataCenterId: String }
input PodFilter { podId: String! }
input PodTerminateInput { podId: String! }

input PodFindAndDeployOnDemandInput {
  name: String imageName: String dockerArgs: String env: [EnvironmentVariableInput] ports: String port: Port
  cloudType: CloudTypeEnum computeType: ComputeType dataCenterId: String countryCode: String
  gpuTypeId: String gpuTypeIdList: [String] gpuCount: Int instanceIds: [String]
  cudaVersion: String allowedCudaVersions: [String] minCudaVersion: String
  minVcpuCount: Int minMemoryInGb: Int minDisk: Int minDownload: Int minUpload: Int
  containerDiskInGb: Int volumeInGb: Int volumeKey: String volumeMountPath: String networkVolumeId: String
  templateId: String containerRegistryAuthId: String supportPublicIp: Boolean globalNetwork: Boolean
  startJupyter: Boolean startSsh: Boolean stopAfter: DateTime terminateAfter: DateTime
  deployCost: Float savingsPlan: SavingsPlanInput modelReferences: [String] aiApiId: String ideAiApiId: String
}

input PodEditJobInput {
  podId: String! imageName: String! dockerArgs: String env: [EnvironmentVariableInput] ports: String port: Port
  containerDiskInGb: Int! volumeInGb: Int volumeMountPath: String containerRegistryAuthId: String
}

input CreateNetworkVolumeInput {
  name: String size: Int dataCenterId: String! userId: String isNextGenStorage: Boolean
}

input UpdateNetworkVolumeInput { id: String! name: String size: Int }
input DeleteNetworkVolumeInput { id: String! }
"""


def runpod_schema() -> GraphQLSchema:
    return build_schema(_OUTPUTS + _INPUTS)
